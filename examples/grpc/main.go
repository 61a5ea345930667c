// The program grpc is a gRPC server behind a pool, and its clients: more calls come than it can
// answer, the most urgent ones are answered, and what is under way when it ends is finished.
//
//	go run -C examples/grpc .
//
// Two calls are at work at a time, and four may wait. All wait for a database that is stuck. It
// prints what became of the calls, by the code of their status:
//
//	10 low calls: map[low ResourceExhausted, to come again:4]
//	2 high ones: map[low ResourceExhausted, to come again:2]
//	the database is back: map[high OK:2 low OK:4]
//	a stream across the end of the server: to be or not
//	shutdown: <nil>
//	2 have left the queue for more urgent ones
//
// The service is defined by hand, with types that gRPC has, as there is no need of a compiler for
// its five lines; with generated code all else is the same.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/grpcpool"
	"github.com/taskpool-go/taskpool/httppool"
)

func main() {
	if err := run(os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// texts is the service: Count tells how many words a text has, and Words sends them.
type texts struct {
	database chan struct{} // closed when it works
	ending   chan struct{} // closed when the server is told to end
}

func (s *texts) count(ctx context.Context, text *wrapperspb.StringValue) (*wrapperspb.Int64Value, error) {
	select {
	case <-s.database:
		return wrapperspb.Int64(int64(len(strings.Fields(text.Value)))), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (s *texts) words(text *wrapperspb.StringValue, stream grpc.ServerStream) error {
	for i, word := range strings.Fields(text.Value) {
		if i == 1 {
			<-s.ending
		}
		if err := stream.SendMsg(wrapperspb.String(word)); err != nil {
			return err
		}
	}
	return nil
}

// desc is what a compiler makes of
//
//	service Texts {
//	  rpc Count(google.protobuf.StringValue) returns (google.protobuf.Int64Value);
//	  rpc Words(google.protobuf.StringValue) returns (stream google.protobuf.StringValue);
//	}
var desc = grpc.ServiceDesc{
	ServiceName: "example.Texts",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Count", Handler: func(s any, ctx context.Context, read func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
		text := new(wrapperspb.StringValue)
		if err := read(text); err != nil {
			return nil, err
		}
		info := &grpc.UnaryServerInfo{Server: s, FullMethod: "/example.Texts/Count"}
		return intercept(ctx, text, info, func(ctx context.Context, req any) (any, error) {
			return s.(*texts).count(ctx, req.(*wrapperspb.StringValue))
		})
	}}},
	Streams: []grpc.StreamDesc{{StreamName: "Words", ServerStreams: true, Handler: func(s any, stream grpc.ServerStream) error {
		text := new(wrapperspb.StringValue)
		if err := stream.RecvMsg(text); err != nil {
			return err
		}
		return s.(*texts).words(text, stream)
	}}},
}

func run(out io.Writer) error {
	pool, err := taskpool.New(taskpool.WithWorkers(2), taskpool.WithCapacity(4, taskpool.OverflowShed))
	if err != nil {
		return err
	}
	// The key "priority" counts for callers inside: here that is all. In earnest look at the peer.
	inside := func(context.Context) bool { return true }
	classify := grpcpool.Classifier(func(_ context.Context, method string) (taskpool.Task, bool) {
		return taskpool.Task{Timeout: time.Minute}, method != "/grpc.health.v1.Health/Check"
	}).Metadata("priority", "", inside)
	server := grpc.NewServer(
		grpc.ChainUnaryInterceptor(grpcpool.Unary(pool, classify)),
		grpc.ChainStreamInterceptor(grpcpool.Stream(pool, classify)),
		grpc.InTapHandle(grpcpool.Tap(pool, classify)),
	)
	service := &texts{database: make(chan struct{}), ending: make(chan struct{})}
	server.RegisterService(&desc, service)
	listener, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()

	// From here on the program is its own clients.
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ends := make(chan string)
	call := func(times int, priority string) {
		for range times {
			go func() { ends <- priority + " " + count(conn, priority) }()
		}
	}
	report := func(what string, times int) {
		got := make(map[string]int)
		for range times {
			got[<-ends]++
		}
		fmt.Fprintf(out, "%s: %v\n", what, got)
	}
	call(10, "low")
	report("10 low calls", 4)
	call(2, "high")
	report("2 high ones", 2)
	close(service.database)
	report("the database is back", 6)

	stream, err := conn.NewStream(context.Background(), &desc.Streams[0], "/example.Texts/Words")
	if err != nil {
		return err
	}
	if err := errors.Join(stream.SendMsg(wrapperspb.String("to be or not")), stream.CloseSend()); err != nil {
		return err
	}
	word := new(wrapperspb.StringValue)
	if err := stream.RecvMsg(word); err != nil {
		return err
	}
	fmt.Fprint(out, "a stream across the end of the server: ", word.Value)
	ended := make(chan error, 1)
	go func() { // as on SIGTERM; there may be HTTP servers, too
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		ended <- httppool.Shutdown(ctx, pool, 0, grpcpool.Server(server))
	}()
	close(service.ending)
	for err = stream.RecvMsg(word); err == nil; err = stream.RecvMsg(word) {
		fmt.Fprint(out, " ", word.Value)
	}
	if err != io.EOF {
		return err
	}
	fmt.Fprintln(out)
	fmt.Fprintln(out, "shutdown:", <-ended)
	fmt.Fprintln(out, pool.Stats().Shed, "have left the queue for more urgent ones")
	return <-served
}

// count makes a call and returns the code of its status, and whether it says when to come again.
func count(conn *grpc.ClientConn, priority string) string {
	ctx := metadata.AppendToOutgoingContext(context.Background(), "priority", priority)
	ctx, cancel := context.WithTimeout(ctx, time.Minute) // no longer does the call wait for its turn
	defer cancel()
	err := conn.Invoke(ctx, "/example.Texts/Count", wrapperspb.String("to be"), new(wrapperspb.Int64Value))
	for _, detail := range status.Convert(err).Details() {
		if retry, ok := detail.(*errdetails.RetryInfo); ok && retry.RetryDelay.AsDuration() >= time.Second {
			return status.Code(err).String() + ", to come again"
		}
	}
	return status.Code(err).String()
}
