package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// An explained is the list of mutants that survive for a reason.
type explained struct {
	reasons map[key]string
}

// A key names a mutant without its line number or its id, so that it keeps its
// name when the lines around it change.
type key struct{ file, function, line, change string }

// readExplained reads the list in the named file. There need not be one.
func readExplained(name string) (*explained, error) {
	x := &explained{reasons: make(map[key]string)}
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return x, nil
	}
	if err != nil {
		return nil, err
	}
	n := 0
	for line := range strings.Lines(string(data)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.Split(line, "\t")
		if len(f) != 5 || f[4] == "" {
			return nil, fmt.Errorf("%s:%d: want file, function, line, change and reason, separated by tabs", name, n)
		}
		file, _, _ := strings.Cut(f[0], ":")
		k := key{file, f[1], f[2], f[3]}
		if _, ok := x.reasons[k]; ok {
			return nil, fmt.Errorf("%s:%d: explained twice", name, n)
		}
		x.reasons[k] = f[4]
	}
	return x, nil
}

func (k key) String() string {
	return strings.Join([]string{k.file, k.function, k.line, k.change}, "\t")
}

// beyond returns what is explained and none of ms, in order: of one of the files or,
// if only is empty, of any, also of one that is gone.
func (x *explained) beyond(ms []mutant, only []string) (stale []key) {
	there := make(map[key]bool, len(ms))
	for _, m := range ms {
		there[m.key] = true
	}
	for k := range x.reasons {
		if !there[k] && (len(only) == 0 || slices.Contains(only, k.file)) {
			stale = append(stale, k)
		}
	}
	slices.SortFunc(stale, func(a, b key) int { return strings.Compare(a.String(), b.String()) })
	return stale
}

func (x *explained) has(m mutant) bool {
	_, ok := x.reasons[m.key]
	return ok
}

// without returns how many of ms are not explained, after calling tell for each.
func (x *explained) without(ms []mutant, tell func(mutant)) (n int) {
	for _, m := range ms {
		if !x.has(m) {
			n++
			if tell != nil {
				tell(m)
			}
		}
	}
	return n
}
