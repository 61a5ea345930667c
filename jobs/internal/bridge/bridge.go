// Package bridge lets package engine use what package jobs does not show its users.
package bridge

import "context"

// Package jobs sets these, and package engine, which imports it, knows the types.
var (
	// Registry returns what package engine needs of a *jobs.Registry, with the methods
	// of engine.registry.
	Registry func(reg any) any

	// WithMeta returns a context of which jobs.MetaFrom returns a jobs.Meta.
	WithMeta func(ctx context.Context, meta any) context.Context

	// Canceled returns the jobs.Event of an attempt that ended with err, for a jobs.Meta.
	Canceled func(meta any, err error) any

	// Validate says what is wrong with a jobs.Request.
	Validate func(request any) error

	// ValidateFilter sets defaults in a *jobs.Filter, and says what is wrong with it.
	ValidateFilter func(filter any) error
)
