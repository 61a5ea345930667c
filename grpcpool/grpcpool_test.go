package grpcpool_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/grpcpool"
	"github.com/taskpool-go/taskpool/httppool"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	goleak.VerifyTestMain(m)
}

// A service has a call and a stream that a test says what they do.
type service struct {
	healthpb.UnimplementedHealthServer
	check func(context.Context) error
	watch func(grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error
}

func (s *service) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	return &healthpb.HealthCheckResponse{}, s.check(ctx)
}

func (s *service) Watch(_ *healthpb.HealthCheckRequest, stream grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	return s.watch(stream)
}

func nothing(context.Context) error { return nil }

// newPool starts a pool that is shut down when the test ends.
func newPool(t *testing.T, opts ...taskpool.Option) *taskpool.Pool {
	p, err := taskpool.New(opts...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Shutdown(context.Background())) })
	return p
}

// serve starts a server with all that this package has, and returns it and a client.
func serve(t *testing.T, p *taskpool.Pool, c grpcpool.Classifier, s *service) (*grpc.Server, healthpb.HealthClient) {
	server := grpc.NewServer(grpc.ChainUnaryInterceptor(grpcpool.Unary(p, c)),
		grpc.ChainStreamInterceptor(grpcpool.Stream(p, c)), grpc.InTapHandle(grpcpool.Tap(p, c)))
	healthpb.RegisterHealthServer(server, s)
	l, err := net.Listen("tcp", "localhost:0")
	require.NoError(t, err)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(l)
	}()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithChainUnaryInterceptor(grpcpool.UnaryClient(p)), grpc.WithChainStreamInterceptor(grpcpool.StreamClient(p)))
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, conn.Close())
		server.Stop()
		<-served
	})
	return server, healthpb.NewHealthClient(conn)
}

func check(ctx context.Context, c healthpb.HealthClient) error {
	_, err := c.Check(ctx, &healthpb.HealthCheckRequest{})
	return err
}

// watch opens a stream and returns its error at the first message.
func watch(ctx context.Context, c healthpb.HealthClient) error {
	stream, err := c.Watch(ctx, &healthpb.HealthCheckRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	return err
}

// occupied has the slot of a pool of one worker taken until free is called.
func occupied(t *testing.T, p *taskpool.Pool) (free func()) {
	running, goOn := make(chan struct{}), make(chan struct{})
	h, err := p.Submit(context.Background(), taskpool.Task{Run: func(context.Context) error {
		close(running)
		<-goOn
		return nil
	}})
	require.NoError(t, err)
	<-running
	return func() {
		close(goOn)
		require.NoError(t, h.Wait(context.Background()))
	}
}

func of(t taskpool.Task) grpcpool.Classifier {
	return func(context.Context, string) (taskpool.Task, bool) { return t, true }
}

// requireRefused checks a status, and that it says when to come again.
func requireRefused(t *testing.T, code codes.Code, err error) {
	t.Helper()
	st := status.Convert(err)
	require.Equal(t, code, st.Code(), "%v", err)
	require.Len(t, st.Details(), 1)
	require.GreaterOrEqual(t, st.Details()[0].(*errdetails.RetryInfo).RetryDelay.AsDuration(), time.Second)
}

func TestCallsAndStreamsAreTasks(t *testing.T) {
	var names []string
	var mu sync.Mutex // protects names
	p := newPool(t, taskpool.WithWorkers(1), taskpool.WithHooks(taskpool.Hooks{Started: func(e taskpool.TaskEvent) {
		mu.Lock()
		defer mu.Unlock()
		names = append(names, e.Task.Name)
	}}))
	_, client := serve(t, p, nil, &service{
		check: func(ctx context.Context) error {
			if _, inside := taskpool.Current(ctx); !inside {
				return status.Error(codes.Unknown, "no task")
			}
			return nil
		},
		watch: func(stream grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
			if _, inside := taskpool.Current(stream.Context()); inside {
				return status.Error(codes.Unknown, "a stream holds a slot")
			}
			return stream.Send(&healthpb.HealthCheckResponse{})
		},
	})
	require.NoError(t, check(t.Context(), client))
	require.NoError(t, watch(t.Context(), client))
	require.NoError(t, p.WaitIdle(t.Context()))
	require.Equal(t, []string{"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"}, names)
}

func TestAFullQueueIsResourceExhaustedWithRetryInfo(t *testing.T) {
	p := newPool(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowReject))
	_, client := serve(t, p, nil, &service{})
	defer occupied(t, p)()
	requireRefused(t, codes.ResourceExhausted, check(t.Context(), client))
	requireRefused(t, codes.ResourceExhausted, watch(t.Context(), client))
}

func TestAFlowThatIsFullIsResourceExhausted(t *testing.T) {
	p := newPool(t, taskpool.WithWorkers(1), taskpool.WithCapacity(10, taskpool.OverflowReject),
		taskpool.WithFlows(func(string) taskpool.FlowPolicy { return taskpool.FlowPolicy{Capacity: 1} }))
	_, client := serve(t, p, of(taskpool.Task{Flow: "acme"}), &service{})
	free := occupied(t, p)
	_, err := p.Submit(t.Context(), taskpool.Task{Flow: "acme", Run: nothing})
	require.NoError(t, err)
	_, err = p.Submit(t.Context(), taskpool.Task{Flow: "acme", Run: nothing})
	require.ErrorIs(t, err, taskpool.ErrFlowFull)
	err = check(t.Context(), client)
	free()
	requireRefused(t, codes.ResourceExhausted, err)
	require.ErrorContains(t, err, "too many of your calls wait")
}

func TestAClosedPoolIsUnavailableWithRetryInfo(t *testing.T) {
	p := newPool(t)
	_, client := serve(t, p, nil, &service{})
	require.NoError(t, p.Shutdown(t.Context()))
	requireRefused(t, codes.Unavailable, check(t.Context(), client))
	requireRefused(t, codes.Unavailable, watch(t.Context(), client))
}

// The handle refuses what would have waited for longer than it may, and says so, without a task.
func TestACallThatWouldWaitForTooLongIsRefusedAtTheTap(t *testing.T) {
	p := newPool(t, taskpool.WithWorkers(1))
	_, client := serve(t, p, of(taskpool.Task{MaxWait: time.Millisecond}), &service{check: nothing})
	free := occupied(t, p)
	for p.ExpectedWait(taskpool.Medium, "") <= time.Millisecond {
		// It grows with the time for which the slot is taken.
	}
	before := p.Stats().Submitted
	err := check(t.Context(), client)
	free()
	requireRefused(t, codes.ResourceExhausted, err)
	require.Equal(t, before, p.Stats().Submitted)
}

// unary has the interceptor answer a call, without a network, so that time may be virtual.
func unary(ctx context.Context, p *taskpool.Pool, c grpcpool.Classifier, handle func(context.Context) error) error {
	_, err := grpcpool.Unary(p, c)(ctx, nil, &grpc.UnaryServerInfo{FullMethod: "/m"},
		func(ctx context.Context, _ any) (any, error) { return nil, handle(ctx) })
	return err
}

func TestADeadlineBoundsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, taskpool.WithWorkers(1))
		free := occupied(t, p)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		err := unary(ctx, p, nil, nothing)
		require.Equal(t, codes.DeadlineExceeded, status.Code(err))
		require.Equal(t, time.Minute, time.Since(began))
		free()
		require.NoError(t, p.WaitIdle(t.Context()))
		require.EqualValues(t, 1, p.Stats().Attempts, "it has run for nobody")
	})
}

func TestTheDeadlineOfACallIsThatOfItsTask(t *testing.T) {
	p := newPool(t, taskpool.WithWorkers(1))
	_, client := serve(t, p, nil, &service{check: nothing})
	free := occupied(t, p)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	err := check(ctx, client)
	// It was refused at the tap if the slot was taken for longer by then.
	require.Contains(t, []codes.Code{codes.DeadlineExceeded, codes.ResourceExhausted}, status.Code(err))
	free()
}

// A queue that is late sheds a call long before its deadline: it may come again.
func TestACallThatIsShedBeforeItsDeadlineMayComeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := taskpool.New(taskpool.WithWorkers(1), taskpool.WithQueueDelay(10*time.Millisecond))
		require.NoError(t, err)
		unary := grpcpool.Unary(p, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		codesOf := make(map[codes.Code]int)
		var mu sync.Mutex // protects codesOf
		var calls sync.WaitGroup
		for range 500 {
			calls.Go(func() {
				_, err := unary(ctx, nil, &grpc.UnaryServerInfo{FullMethod: "/m"}, func(context.Context, any) (any, error) {
					time.Sleep(5 * time.Millisecond)
					return nil, nil
				})
				mu.Lock()
				defer mu.Unlock()
				if codesOf[status.Code(err)]++; err != nil {
					requireRefused(t, codes.ResourceExhausted, err)
				}
			})
		}
		calls.Wait()
		require.NotZero(t, codesOf[codes.OK])
		require.NotZero(t, codesOf[codes.ResourceExhausted])

		// And one that the deadline has ended may not.
		goOn := make(chan struct{})
		h, err := p.Submit(t.Context(), taskpool.Task{Run: func(context.Context) error { <-goOn; return nil }})
		require.NoError(t, err)
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = unary(ctx, nil, &grpc.UnaryServerInfo{FullMethod: "/m"}, func(context.Context, any) (any, error) { return nil, nil })
		require.Equal(t, codes.DeadlineExceeded, status.Code(err))
		close(goOn)
		require.NoError(t, h.Wait(t.Context()))
		require.NoError(t, p.Shutdown(t.Context()))
	})
}

// With one worker and no queue, each call of a handler to its own server would be refused, and with a
// queue wait for itself.
func TestCallsOfTasksToTheirOwnServerDoNotBlock(t *testing.T) {
	p := newPool(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowReject))
	var client healthpb.HealthClient // its handlers have it, too
	deep := metadata.Pairs("deep", "yes")
	_, client = serve(t, p, func(ctx context.Context, _ string) (t taskpool.Task, limited bool) {
		if len(metadata.ValueFromIncomingContext(ctx, "deep")) > 0 {
			t.MaxWait = time.Nanosecond // the handle at the tap would refuse it, too
		}
		return t, true
	}, &service{
		check: func(ctx context.Context) error {
			if len(metadata.ValueFromIncomingContext(ctx, "deep")) > 0 {
				return nil
			}
			return errors.Join(check(metadata.NewOutgoingContext(ctx, deep), client), watch(ctx, client))
		},
		watch: func(stream grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
			if err := check(metadata.NewOutgoingContext(stream.Context(), deep), client); err != nil {
				return err
			}
			return stream.Send(&healthpb.HealthCheckResponse{})
		},
	})
	require.NoError(t, check(t.Context(), client))
	require.EqualValues(t, 1, p.Stats().Submitted)
	require.Zero(t, p.Stats().Refused)
}

func TestTheMarkOfACallCannotBeSpoofed(t *testing.T) {
	p := newPool(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowReject))
	unary := grpcpool.Unary(p, nil)
	runs := func(mark ...string) (exempt bool) {
		ctx := metadata.NewIncomingContext(t.Context(), metadata.MD{"taskpool-inside": mark})
		_, _ = unary(ctx, nil, &grpc.UnaryServerInfo{FullMethod: "/m"}, func(ctx context.Context, _ any) (any, error) {
			_, inside := taskpool.Current(ctx)
			exempt = !inside
			return nil, nil
		})
		return exempt
	}
	sent := func(ctx context.Context) string {
		md, _ := metadata.FromOutgoingContext(ctx)
		return strings.Join(md["taskpool-inside"], ",")
	}
	var mark string
	unaryClient, streamClient := grpcpool.UnaryClient(p), grpcpool.StreamClient(p)
	invoke := func(ctx context.Context) error {
		return unaryClient(ctx, "/m", nil, nil, nil, func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
			mark = sent(ctx)
			return nil
		})
	}
	require.NoError(t, invoke(t.Context()))
	require.Empty(t, mark, "no task has called")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	require.NoError(t, p.Do(t.Context(), taskpool.Task{}, func(ctx context.Context) error {
		require.NoError(t, invoke(ctx))
		require.GreaterOrEqual(t, len(mark), 26)
		require.False(t, runs(mark), "the call is over")
		_, err := streamClient(ctx, nil, nil, "/m", func(ctx context.Context, _ *grpc.StreamDesc, _ *grpc.ClientConn, _ string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
			mark = sent(ctx)
			require.True(t, runs(mark), "the call is under way")
			require.True(t, runs("made up", mark))
			require.False(t, runs("", "made up", mark[1:], strings.ToLower(mark)))
			return nil, io.EOF
		})
		require.ErrorIs(t, err, io.EOF)
		require.False(t, runs(mark), "the stream was not opened")
		return nil
	}))
	require.NoError(t, p.Do(ctx, taskpool.Task{}, func(ctx context.Context) error {
		open := func(ctx context.Context, _ *grpc.StreamDesc, _ *grpc.ClientConn, _ string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
			mark = sent(ctx)
			return fakeStream{}, nil
		}
		for _, accept := range []func(grpc.ClientStream){
			func(s grpc.ClientStream) { _, _ = s.Header() },
			func(s grpc.ClientStream) { _ = s.RecvMsg(nil) },
		} {
			stream, err := streamClient(ctx, nil, nil, "/m", open)
			require.NoError(t, err)
			require.True(t, runs(mark), "the server may not have seen it yet")
			accept(stream)
			require.False(t, runs(mark))
		}
		_, err := streamClient(ctx, nil, nil, "/m", open)
		require.NoError(t, err)
		return nil
	}))
	require.Eventually(t, func() bool { return !runs(mark) }, time.Minute, time.Millisecond, "the task's context has ended")
}

type fakeStream struct{ grpc.ClientStream }

func (fakeStream) Header() (metadata.MD, error) { return nil, nil }
func (fakeStream) RecvMsg(any) error            { return nil }

// gRPC calls the handle under a lock of the connection, on the goroutine that reads it.
func TestAPanickingClassifierIsLeftToTheInterceptors(t *testing.T) {
	p := newPool(t)
	handle := grpcpool.Tap(p, func(context.Context, string) (taskpool.Task, bool) { panic("classify") })
	ctx, err := handle(t.Context(), &tap.Info{FullMethodName: "/m"})
	require.NoError(t, err)
	require.Equal(t, t.Context(), ctx)
	require.PanicsWithValue(t, "classify", func() {
		_, _ = grpcpool.Unary(p, func(context.Context, string) (taskpool.Task, bool) { panic("classify") })(t.Context(), nil, &grpc.UnaryServerInfo{}, nil)
	})
	require.Zero(t, p.Stats().Submitted)
}

func TestATaskThatDoRefusesIsInternal(t *testing.T) {
	p := newPool(t)
	_, client := serve(t, p, of(taskpool.Task{Timeout: -1}), &service{})
	for _, err := range []error{check(t.Context(), client), watch(t.Context(), client)} {
		require.Equal(t, codes.Internal, status.Code(err))
		require.ErrorContains(t, err, "internal error")
	}
}

func TestTimeoutsAreDeadlineExceededUnlessTheHandlerSaysMore(t *testing.T) {
	for _, task := range []taskpool.Task{{Timeout: time.Minute}, {WorkTimeout: time.Minute}} {
		synctest.Test(t, func(t *testing.T) {
			p := newPool(t)
			err := unary(t.Context(), p, of(task), func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
			require.Equal(t, codes.DeadlineExceeded, status.Code(err))
			err = unary(t.Context(), p, of(task), func(ctx context.Context) error {
				<-ctx.Done()
				return status.Error(codes.DataLoss, "said")
			})
			require.Equal(t, codes.DataLoss, status.Code(err))
		})
	}
}

func TestMetadataCountsFromTrustedPeersOnly(t *testing.T) {
	trusted := true
	c := of(taskpool.Task{Priority: 7, Flow: "none"}).Metadata("x-priority", "x-tenant", func(context.Context) bool { return trusted })
	for _, test := range []struct {
		trusted bool
		md      metadata.MD
		want    taskpool.Task
	}{
		{true, metadata.Pairs("x-priority", "HIGH", "x-tenant", "acme"), taskpool.Task{Priority: taskpool.High, Flow: "acme"}},
		{true, metadata.Pairs("x-priority", "11"), taskpool.Task{Priority: 7, Flow: "none"}},
		{true, metadata.Pairs("x-priority", "urgent"), taskpool.Task{Priority: 7, Flow: "none"}},
		{true, nil, taskpool.Task{Priority: 7, Flow: "none"}},
		{false, metadata.Pairs("x-priority", "high", "x-tenant", "acme"), taskpool.Task{Priority: 7, Flow: "none"}},
	} {
		trusted = test.trusted
		got, limited := c(metadata.NewIncomingContext(t.Context(), test.md), "/m")
		require.True(t, limited)
		test.want.Name = "/m"
		require.Equal(t, test.want, got)
	}
	exempt := grpcpool.Classifier(func(context.Context, string) (taskpool.Task, bool) { return taskpool.Task{}, false })
	_, limited := exempt.Metadata("a", "b", func(context.Context) bool { t.Error("asked"); return true })(t.Context(), "/m")
	require.False(t, limited)
}

func TestExemptCallsRunWhenThePoolIsFull(t *testing.T) {
	p := newPool(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowReject))
	_, client := serve(t, p, func(context.Context, string) (taskpool.Task, bool) { return taskpool.Task{}, false }, &service{
		check: nothing,
		watch: func(s grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
			return s.Send(&healthpb.HealthCheckResponse{})
		},
	})
	defer occupied(t, p)()
	require.NoError(t, check(t.Context(), client))
	require.NoError(t, watch(t.Context(), client))
}

// Calls and streams that have begun when the process is told to end are finished, and each call
// that has run was answered.
func TestShutdownUnderLoadLosesNoAcceptedCall(t *testing.T) {
	for range 50 {
		p, err := taskpool.New(taskpool.WithWorkers(2))
		require.NoError(t, err)
		var run, ok atomic.Int64
		goOn := make(chan struct{})
		server, client := serve(t, p, nil, &service{
			check: func(context.Context) error { run.Add(1); return nil },
			watch: func(s grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
				_ = s.Send(&healthpb.HealthCheckResponse{})
				<-goOn
				return s.Send(&healthpb.HealthCheckResponse{})
			},
		})
		stream, err := client.Watch(t.Context(), &healthpb.HealthCheckRequest{})
		require.NoError(t, err)
		_, err = stream.Recv()
		require.NoError(t, err)
		enough := make(chan struct{})
		var once sync.Once
		var clients sync.WaitGroup
		for range 4 {
			clients.Go(func() {
				for check(t.Context(), client) == nil {
					if ok.Add(1) == 50 {
						once.Do(func() { close(enough) })
					}
				}
			})
		}
		<-enough
		result := make(chan error, 1)
		go func() { result <- httppool.Shutdown(t.Context(), p, 0, grpcpool.Server(server)) }()
		clients.Wait() // they are told to go elsewhere, and there is nowhere
		close(goOn)
		_, err = stream.Recv()
		require.NoError(t, err)
		_, err = stream.Recv()
		require.ErrorIs(t, err, io.EOF)
		require.NoError(t, <-result)
		require.Equal(t, run.Load(), ok.Load())
	}
}

func TestAShutdownThatIsCutShortStopsTheServer(t *testing.T) {
	p, err := taskpool.New(taskpool.WithWorkers(1))
	require.NoError(t, err)
	running := make(chan struct{})
	server, client := serve(t, p, nil, &service{check: func(ctx context.Context) error { close(running); <-ctx.Done(); return ctx.Err() }})
	result := make(chan error, 1)
	go func() { result <- check(context.Background(), client) }()
	<-running
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = httppool.Shutdown(ctx, p, time.Hour, grpcpool.Server(server))
	var cut *taskpool.ShutdownError
	require.ErrorAs(t, err, &cut)
	require.Len(t, cut.Unfinished, 1)
	require.Error(t, <-result)
}

func TestBadArgumentsPanicWithAReason(t *testing.T) {
	for want, f := range map[string]func(){
		"grpcpool: Unary: p must be a Pool that New has returned, got nil":        func() { grpcpool.Unary(nil, nil) },
		"grpcpool: Stream: p must be a Pool that New has returned, got nil":       func() { grpcpool.Stream(nil, nil) },
		"grpcpool: Tap: p must be a Pool that New has returned, got nil":          func() { grpcpool.Tap(nil, nil) },
		"grpcpool: UnaryClient: p must be a Pool that New has returned, got nil":  func() { grpcpool.UnaryClient(nil) },
		"grpcpool: StreamClient: p must be a Pool that New has returned, got nil": func() { grpcpool.StreamClient(nil) },
		"grpcpool: Server: s must not be nil, got nil":                            func() { grpcpool.Server(nil) },
		"grpcpool: Classifier.Metadata: trusted must not be nil, got nil":         func() { grpcpool.Classifier(nil).Metadata("", "", nil) },
	} {
		require.PanicsWithValue(t, want, f)
	}
}
