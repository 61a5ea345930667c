package docs_test

import (
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// Links to other sites are not followed: whether these can be reached says nothing about
// the repository.
func TestLinksInDocumentsLeadSomewhere(t *testing.T) {
	all := documents(t)
	exists := func(name string) bool {
		_, err := os.Stat(filepath.Join(root, filepath.FromSlash(name)))
		return err == nil
	}
	for _, bad := range brokenLinks(all, exists) {
		t.Error(bad)
	}
}

// brokenLinks returns what is wrong with the links in the documents.
func brokenLinks(all []document, exists func(name string) bool) (bad []string) {
	anchors := make(map[string]map[string]bool)
	for _, d := range all {
		anchors[d.name] = d.anchors()
	}
	for _, d := range all {
		for i, line := range d.prose {
			for _, m := range linkTarget.FindAllStringSubmatch(codeSpan.ReplaceAllString(line, ""), -1) {
				to := m[1] + m[2] + m[3]
				if why := broken(d.name, to, anchors, exists); why != "" {
					bad = append(bad, fmt.Sprintf("%s:%d: %s: %s", d.name, i+1, to, why))
				}
			}
		}
	}
	return bad
}

// broken says what is wrong with a link in the document from, or returns "".
func broken(from, to string, anchors map[string]map[string]bool, exists func(name string) bool) string {
	u, err := url.Parse(to)
	switch {
	case err != nil:
		return err.Error()
	case u.Scheme != "" || u.Host != "":
		return ""
	case strings.HasPrefix(u.Path, "/"):
		return "the path must be relative"
	}
	target := from
	if u.Path != "" {
		target = path.Join(path.Dir(from), u.Path)
	}
	switch {
	case target == ".." || strings.HasPrefix(target, "../"):
		return "leads out of the repository"
	case !exists(target):
		return "there is no such file"
	case u.Fragment == "":
		return ""
	case anchors[target] == nil:
		return "only documents have anchors"
	case !anchors[target][u.Fragment]:
		return "there is no such heading"
	}
	return ""
}

func TestBrokenLinksAreFound(t *testing.T) {
	all := []document{
		parse("README.md", strings.Join([]string{
			"# The pool",
			"[a](docs/a.md) [b](docs/a.md#two-words) ![c](docs/images/c.png) [d](#the-pool) [e](https://example.com/#x)",
			"[bad](docs/missing.md) [bad](#nothing) <img src=\"nowhere.png\"> [bad](LICENSE#x)",
			"`[in code](nowhere)`",
			"```text",
			"[in a block](nowhere)",
			"```",
			"[ref]: nowhere.md",
		}, "\n")),
		parse("docs/a.md", strings.Join([]string{
			"## Two `words`",
			"## Two words",
			"[x](../README.md#the-pool) [y](#two-words-1) [z](../LICENSE)",
			"[bad](../../other) [bad](/LICENSE) [bad](#two-words-2)",
		}, "\n")),
	}
	there := map[string]bool{"README.md": true, "LICENSE": true, "docs/a.md": true, "docs/images/c.png": true}
	got := brokenLinks(all, func(name string) bool { return there[name] })
	want := []string{
		"README.md:3: docs/missing.md: there is no such file",
		"README.md:3: #nothing: there is no such heading",
		"README.md:3: nowhere.png: there is no such file",
		"README.md:3: LICENSE#x: only documents have anchors",
		"README.md:8: nowhere.md: there is no such file",
		"docs/a.md:4: ../../other: leads out of the repository",
		"docs/a.md:4: /LICENSE: the path must be relative",
		"docs/a.md:4: #two-words-2: there is no such heading",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
