module github.com/taskpool-go/taskpool/jobs/riverjobs

go 1.26.0

replace github.com/taskpool-go/taskpool => ../..

require github.com/taskpool-go/taskpool v0.0.0
