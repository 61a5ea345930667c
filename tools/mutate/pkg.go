package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// A source is the package to change.
type source struct {
	dir, name, path string
	files           []string // their names, in order
	text            map[string][]byte
	fset            *token.FileSet
	trees           map[string]*ast.File
	info            *types.Info
	types           *types.Package
	importer        types.Importer
}

// A listed is what go list says of a package.
type listed struct {
	Dir, Name, ImportPath, Export string
	DepOnly, Standard             bool
	GoFiles, CgoFiles             []string
}

// load reads and checks the package in dir.
func load(ctx context.Context, dir string) (*source, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-export", "-deps",
		"-json=Dir,Name,ImportPath,Export,DepOnly,Standard,GoFiles,CgoFiles",
		".", "cmp", "os", "strconv") // what helpers imports
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w\n%s", err, &stderr)
	}
	s := &source{fset: token.NewFileSet(), text: make(map[string][]byte), trees: make(map[string]*ast.File)}
	exports := make(map[string]string)
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var l listed
		if err := dec.Decode(&l); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		exports[l.ImportPath] = l.Export
		if !l.DepOnly && !l.Standard {
			if len(l.CgoFiles) > 0 {
				return nil, errors.New("packages with cgo are not supported")
			}
			s.dir, s.name, s.path, s.files = l.Dir, l.Name, l.ImportPath, l.GoFiles
		}
	}
	s.importer = importer.ForCompiler(s.fset, "gc", func(path string) (io.ReadCloser, error) {
		if exports[path] == "" {
			return nil, fmt.Errorf("no export data of %s", path)
		}
		return os.Open(exports[path])
	})
	for _, name := range s.files {
		if s.text[name], err = os.ReadFile(filepath.Join(s.dir, name)); err != nil {
			return nil, err
		}
		if s.trees[name], err = parser.ParseFile(s.fset, name, s.text[name], parser.SkipObjectResolution); err != nil {
			return nil, err
		}
	}
	s.info = &types.Info{Types: make(map[ast.Expr]types.TypeAndValue), Uses: make(map[*ast.Ident]types.Object),
		Defs: make(map[*ast.Ident]types.Object)}
	trees := make([]*ast.File, 0, len(s.files))
	for _, name := range s.files {
		trees = append(trees, s.trees[name])
	}
	s.types, err = s.config().Check(s.path, s.fset, trees, s.info)
	return s, err
}

func (s *source) config() *types.Config {
	return &types.Config{Importer: s.importer, Sizes: types.SizesFor("gc", runtime.GOARCH)}
}

// choose returns the files named in only. If it is empty these are all but those with a
// build constraint, which are there for one kind of build only.
func (s *source) choose(only string) ([]string, error) {
	if only == "" {
		return slices.DeleteFunc(slices.Clone(s.files), func(name string) bool {
			return bytes.HasPrefix(s.text[name], []byte("//go:build "))
		}), nil
	}
	chosen := strings.Split(only, ",")
	for _, name := range chosen {
		if !slices.Contains(s.files, name) {
			return nil, fmt.Errorf("-only: %s is not a source file of the package", name)
		}
	}
	return chosen, nil
}

// rewrite returns the mutants of the chosen files and their text with those that
// are active. The numbers are those that the mutants have among all files.
func (s *source) rewrite(chosen []string, active func(id int) bool) (mutants []mutant, texts map[string][]byte) {
	texts = make(map[string][]byte)
	id := 1
	for _, name := range s.files {
		tree := s.trees[name]
		r := &rewriter{fset: s.fset, file: s.fset.File(tree.FileStart), name: name, src: s.text[name],
			info: s.info, pkg: s.types, active: active}
		ms, text := r.rewrite(tree, id)
		id += len(ms)
		if slices.Contains(chosen, name) {
			mutants = append(mutants, ms...)
			texts[name] = text
		}
	}
	return mutants, texts
}

func (s *source) mutants(chosen []string) []mutant {
	ms, _ := s.rewrite(chosen, func(int) bool { return true })
	return ms
}

// schemata returns the changed files by name, and the one that they refer to.
func (s *source) schemata(chosen []string, broken map[int]bool) map[string][]byte {
	_, texts := s.rewrite(chosen, func(id int) bool { return !broken[id] })
	texts[helperFile] = s.helpers()
	return texts
}

// helperFile is the name of the file that is added to the package.
const helperFile = "mutant_helpers.go"

func (s *source) helpers() []byte { return fmt.Appendf(nil, helpers, s.name) }

// dropBroken returns the mutants that do not compile.
func (s *source) dropBroken(chosen []string) (map[int]bool, error) {
	broken := make(map[int]bool)
	var search func(ids []int) error
	search = func(ids []int) error {
		err := s.compiles(chosen, ids)
		switch {
		case err == nil || len(ids) == 0:
			return err
		case len(ids) == 1:
			broken[ids[0]] = true
			return nil
		}
		return errors.Join(search(ids[:len(ids)/2]), search(ids[len(ids)/2:]))
	}
	if err := s.compiles(chosen, nil); err != nil {
		return nil, fmt.Errorf("without any mutant: %w", err)
	}
	var ids []int
	for _, m := range s.mutants(chosen) {
		ids = append(ids, m.id)
	}
	if err := search(ids); err != nil {
		return nil, err
	}
	rest := slices.DeleteFunc(ids, func(id int) bool { return broken[id] })
	if err := s.compiles(chosen, rest); err != nil {
		return nil, fmt.Errorf("mutants that compile do not together: %w", err)
	}
	return broken, nil
}

// compiles checks the package with the given mutants.
func (s *source) compiles(chosen []string, ids []int) error {
	active := make(map[int]bool, len(ids))
	for _, id := range ids {
		active[id] = true
	}
	_, texts := s.rewrite(chosen, func(id int) bool { return active[id] })
	texts[helperFile] = s.helpers()
	fset := token.NewFileSet()
	var trees []*ast.File
	for _, name := range append(slices.Clone(s.files), helperFile) {
		text, ok := texts[name]
		if !ok {
			text = s.text[name]
		}
		tree, err := parser.ParseFile(fset, name, text, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		trees = append(trees, tree)
	}
	_, err := s.config().Check(s.path, fset, trees, nil)
	return err
}
