// Package bridge lets package engine use what package jobs does not show its users.
package bridge

// Package jobs sets these, and package engine, which imports it, knows the types.
var (
	// Registry returns what package engine needs of a *jobs.Registry, with the methods
	// of engine.registry.
	Registry func(reg any) any

	// Validate says what is wrong with a jobs.Request.
	Validate func(request any) error
)
