// Package docs_test checks the documents of the repository: the Go code that they show,
// their links and their spelling.
package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

// root is the repository, seen from this directory.
const root = "../.."

// A document is a Markdown file, read line by line.
type document struct {
	name   string // its path from the repository's root, with slashes
	blocks []block
	prose  []string // its lines; those of blocks are empty here
}

// A block is a fenced block of code.
type block struct {
	line     int // of the opening fence, counted from 1
	language string
	text     string
}

// parse reads a document. It knows the part of Markdown that this repository uses.
func parse(name, text string) document {
	d := document{name: name}
	var open *block
	var fence, indent string
	for i, line := range strings.Split(text, "\n") {
		trimmed := strings.TrimLeft(line, " \t")
		mark := trimmed[:len(trimmed)-len(strings.TrimLeft(trimmed, "`"))]
		switch {
		case open == nil && len(mark) >= 3:
			fence, indent = mark, line[:len(line)-len(trimmed)]
			d.blocks = append(d.blocks, block{line: i + 1, language: strings.TrimSpace(trimmed[len(mark):])})
			open = &d.blocks[len(d.blocks)-1]
		case open != nil && strings.TrimRight(trimmed, " ") == fence:
			open = nil
		case open != nil:
			open.text += strings.TrimPrefix(line, indent) + "\n"
		default:
			d.prose = append(d.prose, line)
			continue
		}
		d.prose = append(d.prose, "")
	}
	return d
}

// files calls f with the path, from the root and with slashes, of each file that is part
// of the repository.
func files(t *testing.T, f func(name string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		hidden := strings.HasPrefix(e.Name(), ".") && name != "." && e.Name() != ".github"
		switch {
		case e.IsDir() && (hidden || e.Name() == "testdata"):
			return fs.SkipDir
		case e.Type().IsRegular():
			f(filepath.ToSlash(name))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// read returns the text of a file of the repository.
func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// documents returns all documents of the repository.
func documents(t *testing.T) (all []document) {
	t.Helper()
	files(t, func(name string) {
		if strings.HasSuffix(name, ".md") {
			all = append(all, parse(name, read(t, name)))
		}
	})
	if !slices.ContainsFunc(all, func(d document) bool { return d.name == "README.md" }) {
		t.Fatal("there is no README.md, so the others are not there either")
	}
	return all
}

var (
	codeSpan    = regexp.MustCompile("``.+?``|`[^`]+`")
	linkTarget  = regexp.MustCompile(`\]\(<?([^)<> ]+)>?(?: "[^"]*")?\)|^\[[^]]+\]:\s+(\S+)|(?:href|src)="([^"]+)"`)
	linkOfText  = regexp.MustCompile(`!?\[([^]]*)\]\([^)]*\)`)
	headingLine = regexp.MustCompile(`^#{1,6} +(.*?)(?: +#+)?$`)
	anchorTag   = regexp.MustCompile(`<a (?:id|name)="([^"]+)"`)
)

// anchors returns the names of the places in d that a link can lead to, as GitHub makes
// them.
func (d document) anchors() map[string]bool {
	names := make(map[string]bool)
	for _, line := range d.prose {
		for _, m := range anchorTag.FindAllStringSubmatch(line, -1) {
			names[m[1]] = true
		}
		m := headingLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		name := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case unicode.IsLetter(r), unicode.IsNumber(r), r == '-', r == '_':
				return unicode.ToLower(r)
			}
			return -1
		}, linkOfText.ReplaceAllString(m[1], "$1"))
		unique := name
		for n := 1; names[unique]; n++ {
			unique = name + "-" + strconv.Itoa(n)
		}
		names[unique] = true
	}
	return names
}
