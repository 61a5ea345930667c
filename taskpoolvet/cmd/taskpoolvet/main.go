// Command taskpoolvet finds mistakes in programs that use package taskpool. It is a tool for go vet,
//
//	go vet -vettool=$(which taskpoolvet) ./...
//
// and a command of its own:
//
//	taskpoolvet ./...
//
// Package taskpoolvet describes what it finds; so do taskpoolvet help and taskpoolvet help NAME.
package main

import (
	"github.com/taskpool-go/taskpool/taskpoolvet"
	"golang.org/x/tools/go/analysis/multichecker"
)

func main() { multichecker.Main(taskpoolvet.Analyzers...) }
