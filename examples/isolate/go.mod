module github.com/taskpool-go/taskpool/examples/isolate

go 1.26.0

replace github.com/taskpool-go/taskpool => ../..

require (
	github.com/stretchr/testify v1.12.1
	github.com/taskpool-go/taskpool v0.1.0
	go.uber.org/goleak v1.3.0
)

require go.yaml.in/yaml/v3 v3.0.5 // indirect
