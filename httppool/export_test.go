package httppool

import (
	"context"
	"runtime"
	"syscall"
)

// HungUp reports whether the other end of a connection that ConnContext has put into ctx has closed it.
func HungUp(ctx context.Context) bool {
	return hungUp(ctx.Value(connKey{}).(syscall.RawConn))
}

// Services collects garbage and returns how many pools have a service.
func Services() int {
	runtime.GC()
	return services.Len()
}
