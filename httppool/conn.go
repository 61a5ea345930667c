package httppool

import (
	"context"
	"errors"
	"net"
	"net/http"
	"syscall"
)

// errHungUp is the cause with which a request ends whose client has closed its connection.
var errHungUp = errors.New("httppool: the client has closed the connection")

type connKey struct{}

// ConnContext is for the field ConnContext of an [http.Server]. It has the handlers of this
// package look, when the turn of a request has come, whether its client is still there, where
// net/http itself does not: with HTTP/1 while the body has not been read. Handlers do not run
// for a client that has closed its connection. That costs a few microseconds for a request with a
// body, and nothing for another. It works on Linux, for connections of TCP and Unix sockets, TLS on
// them, and others that have a method NetConn which returns one; elsewhere it makes no difference.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	for {
		if outer, ok := c.(interface{ NetConn() net.Conn }); ok {
			c = outer.NetConn()
			continue
		}
		if socket, ok := c.(syscall.Conn); ok {
			if raw, err := socket.SyscallConn(); err == nil {
				return context.WithValue(ctx, connKey{}, raw)
			}
		}
		return ctx
	}
}

// connOf returns the connection of a request of HTTP/1, or nil if nothing is known of it.
func connOf(r *http.Request) syscall.RawConn {
	if r.ProtoMajor != 1 {
		return nil
	}
	raw, _ := r.Context().Value(connKey{}).(syscall.RawConn)
	return raw
}
