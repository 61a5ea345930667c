// Package taskpooltest helps to test code that uses a pool of package taskpool.
//
//	func TestUrgentMailGoesFirst(t *testing.T) {
//		var order taskpooltest.Recorder
//		pool := taskpooltest.New(t, taskpool.WithHooks(order.Hooks()))
//		outbox := newOutbox(pool) // the code under test
//		pool.Pause()              // nothing starts before everything is queued
//		outbox.send("newsletter", taskpool.Low)
//		outbox.send("password", taskpool.High)
//
//		if mail := taskpooltest.Step(t, pool); mail.State != taskpool.StateSucceeded {
//			t.Errorf("%s: got %v, want succeeded", mail.Name, mail.State)
//		}
//		taskpooltest.Step(t, pool)
//		taskpooltest.AssertOrder(t, &order, "password", "newsletter")
//	}
//
// [New] makes a pool that logs to the test, is shut down when the test ends, and fails the
// test for tasks that did not finish and goroutines that are left. [Watch] does the same
// for a pool that the code under test makes, and [Logger] is for its log.
//
// [Step] runs a paused pool one task at a time. A [Recorder] notes the order in which tasks
// start and finish, for [AssertOrder] and [AssertBefore].
//
// Everything works in a bubble of package [testing/synctest] as well, where time is
// virtual: call it inside the bubble, with the bubble's t. Each parallel test needs a pool
// of its own.
package taskpooltest
