package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// pythonPools are what python/pool.py measures.
var pythonPools = []string{"multiprocessing.Pool", "ProcessPoolExecutor"}

//go:embed python/pool.py
var pythonScript string

// hasPython reports whether there is a Python to compare with.
func hasPython() bool {
	_, err := exec.LookPath("python3")
	return err == nil
}

// pythonVersion returns the name and the version of the Python; "no python3" if
// there is none.
func pythonVersion() string {
	version, err := exec.Command("python3", "--version").Output()
	if err != nil {
		return "no python3"
	}
	return strings.TrimSpace(string(version))
}

// A python is an interpreter at work on the script. It ends when this process does.
type python struct {
	requests *json.Encoder
	replies  *json.Decoder
}

// A pythonRequest asks for a measurement.
type pythonRequest struct {
	Pool     string `json:"pool"` // one of pythonPools; "": without a pool
	Workers  int    `json:"workers"`
	Function string `json:"function"`
	Argument int    `json:"argument"` // of echo the size
	Calls    int    `json:"calls"`
	How      string `json:"how"` // "": one after the other; "many": all at once; "chunks": likewise, many in a message
}

// startPython returns the interpreter, which all scenarios of a process share.
var startPython = sync.OnceValue(func() *python {
	cmd := exec.Command("python3", "-c", pythonScript)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(err)
	out, err := cmd.StdoutPipe()
	must(err)
	must(cmd.Start())
	return &python{json.NewEncoder(in), json.NewDecoder(out)}
})

// measure returns how long the calls took, and what each of them returned: of echo the size.
func (p *python) measure(r pythonRequest) (took time.Duration, result uint64) {
	must(p.requests.Encode(r))
	var reply struct {
		Seconds float64
		Result  uint64
	}
	if err := p.replies.Decode(&reply); err != nil {
		panic(fmt.Sprintf("python3 gave up: %v", err))
	}
	return time.Duration(reply.Seconds * 1e9), reply.Result
}

// pythonTurnsOfMillisecond returns the number of turns that spin needs for 1 ms in
// Python, from the fastest of many tries.
var pythonTurnsOfMillisecond = sync.OnceValue(func() int {
	const turns = 1_000
	fastest := time.Hour
	for range 50 {
		took, _ := startPython().measure(pythonRequest{Function: "spin", Argument: turns, Calls: 1})
		fastest = min(fastest, took)
	}
	return max(1, int(turns*time.Millisecond/max(1, fastest)))
})
