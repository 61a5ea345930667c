// The analyzers are tested on code that uses the real package.
module testdata

go 1.26.0

require github.com/taskpool-go/taskpool v0.0.0

replace github.com/taskpool-go/taskpool => ../..
