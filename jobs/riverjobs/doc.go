// Package riverjobs runs the handlers of package jobs on River.
package riverjobs
