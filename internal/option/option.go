// Package option is what packages with functional options have in common: options are
// applied in order, none may be nil, and what is refused is said in the same words. Each
// package has an Option and a config of its own, as these are what its documentation
// shows.
package option

import "fmt"

// A Package is the name that the errors of a package begin with.
type Package string

// Apply calls apply with each option in order, until one is nil, which is an error.
func Apply[O any](of Package, opts []O, apply func(O)) error {
	for i, o := range opts {
		if any(o) == nil {
			return fmt.Errorf("%s: option %d must not be nil", of, i+1)
		}
		apply(o)
	}
	return nil
}

// Bad is the error of a setting that is not allowed: what it is called, what it must be,
// as in "be positive", and what it is.
func (of Package) Bad(setting, allowed string, got any) error {
	return fmt.Errorf("%s: %s must %s, got %v", of, setting, allowed, got)
}
