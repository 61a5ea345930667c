//go:build !linux && !darwin

package process

import "errors"

func setRlimit(rlimit) error { return errors.ErrUnsupported }
