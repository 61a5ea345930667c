package docs_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// wordList holds the words that documents and comments may use although the dictionary
// does not know them.
const wordList = "docs/words.txt"

// A use of a word is where it stands.
type use struct {
	file string
	line int
	word string
}

func TestDocumentsAndCommentsAreSpelledAsInUSEnglish(t *testing.T) {
	if testing.Short() {
		t.Skip("make lint looks at this")
	}
	requireHunspell(t)
	known := strings.Fields(read(t, wordList))
	var uses []use
	for _, d := range documents(t) {
		uses = append(uses, d.words()...)
	}
	files(t, func(name string) {
		if strings.HasSuffix(name, ".go") {
			uses = append(uses, wordsOfComments(t, name, read(t, name))...)
		}
	})
	unknown := unknownWords(t, uses)
	for _, u := range uses {
		if unknown[u.word] && !allows(known, u.word) {
			t.Errorf("%s:%d: %s is neither in the dictionary nor in %s", u.file, u.line, u.word, wordList)
		}
	}
}

func TestWordListIsSorted(t *testing.T) {
	words := strings.Split(strings.TrimSuffix(read(t, wordList), "\n"), "\n")
	for i := 1; i < len(words); i++ {
		if compareWords(words[i-1], words[i]) >= 0 {
			t.Errorf("%s: %s must not follow %s", wordList, words[i], words[i-1])
		}
	}
}

// compareWords orders words as a reader looks for them, whatever their case.
func compareWords(a, b string) int {
	if c := strings.Compare(strings.ToLower(a), strings.ToLower(b)); c != 0 {
		return c
	}
	return strings.Compare(a, b)
}

func requireHunspell(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("hunspell"); err == nil {
		return
	}
	if os.Getenv("CI_REQUIRE_HUNSPELL") != "" {
		t.Fatal("hunspell must be installed")
	}
	t.Skip("hunspell is not installed")
}

// unknownWords returns those words that the dictionary does not know.
func unknownWords(t *testing.T, uses []use) map[string]bool {
	t.Helper()
	input := new(strings.Builder)
	for _, u := range uses {
		fmt.Fprintln(input, u.word)
	}
	c := exec.CommandContext(t.Context(), "hunspell", "-d", "en_US", "-i", "utf-8", "-l")
	c.Stdin, c.Stderr = strings.NewReader(input.String()), os.Stderr
	output, err := c.Output()
	if err != nil {
		t.Fatal("hunspell with the dictionary en_US: ", err)
	}
	unknown := make(map[string]bool)
	for word := range strings.FieldsSeq(string(output)) {
		unknown[word] = true
	}
	return unknown
}

// allows reports whether the list has a word: as it is, in lower case, or without the
// ending of a plural.
func allows(list []string, word string) bool {
	for _, w := range []string{word, strings.TrimSuffix(word, "s"), strings.TrimSuffix(word, "es")} {
		if slices.Contains(list, w) || slices.Contains(list, strings.ToLower(w)) {
			return true
		}
	}
	return false
}

var (
	urlText = regexp.MustCompile(`(?:https?|mailto):[^\s)>\]]+`)
	tagText = regexp.MustCompile(`<[a-z/!][^>]*>`)
	docLink = regexp.MustCompile(`\[[*A-Za-z0-9_./]+\]`)
)

// words returns the words of the document's prose.
func (d document) words() (uses []use) {
	for i, line := range d.prose {
		if strings.HasPrefix(line, "    ") && (i == 0 || strings.TrimSpace(d.prose[i-1]) == "" || strings.HasPrefix(d.prose[i-1], "    ")) {
			continue // code
		}
		line = codeSpan.ReplaceAllString(line, " ")
		line = linkTarget.ReplaceAllString(line, "] ")
		line = tagText.ReplaceAllString(line, " ")
		for _, word := range plainWords(line) {
			uses = append(uses, use{d.name, i + 1, word})
		}
	}
	return uses
}

// wordsOfComments returns the words of the comments in a Go file that are not names in it.
func wordsOfComments(t *testing.T, name, text string) (uses []use) {
	t.Helper()
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	ast.Inspect(f, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok {
			names[id.Name] = true
		}
		return true
	})
	for _, group := range f.Comments {
		for _, comment := range group.List {
			if body := strings.TrimSpace(strings.TrimPrefix(comment.Text, "//")); strings.HasPrefix(strings.ToLower(body), "output:") || strings.HasPrefix(strings.ToLower(body), "unordered output:") {
				break // what an Example prints
			}
			first := set.Position(comment.Pos()).Line
			for i, line := range strings.Split(comment.Text, "\n") {
				if strings.HasPrefix(line, "//go:") || strings.HasPrefix(line, "//\t") || strings.HasPrefix(line, "\t") {
					continue // directives and code
				}
				line = codeSpan.ReplaceAllString(docLink.ReplaceAllString(line, " "), " ")
				for _, word := range plainWords(line) {
					if !names[word] {
						uses = append(uses, use{name, first + i, word})
					}
				}
			}
		}
	}
	return uses
}

// plainWords returns the words of a line, without what is code: what has digits, signs or
// capitals in it.
func plainWords(line string) (words []string) {
	line = urlText.ReplaceAllString(line, " ")
	isEdge := func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsNumber(r) && r != '_' && r != '\\' && r != '%'
	}
	for _, token := range strings.FieldsFunc(line, func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune("-–—…→|\"“”", r) }) {
		word := strings.TrimSuffix(strings.ReplaceAll(strings.TrimFunc(token, isEdge), "’", "'"), "'s")
		plain := word != "" && !strings.Contains(token, "()")
		for i, r := range word {
			if r != '\'' && !unicode.IsLetter(r) || i > 0 && unicode.IsUpper(r) {
				plain = false
			}
		}
		if plain {
			words = append(words, word)
		}
	}
	return words
}

func TestMisspelledWordsAreFound(t *testing.T) {
	d := parse("a.md", strings.Join([]string{
		"# A pririty",
		"The `qeue`, [a liink](wrng.md) and https://exmple.com; colour isn't right.",
		"",
		"    sorce code",
		"```go",
		"sorce",
		"```",
		"getFoo HTTP x1 a.bcd func() — goroutines’ ends",
	}, "\n"))
	var got []string
	for _, u := range d.words() {
		got = append(got, fmt.Sprintf("%d %s", u.line, u.word))
	}
	want := []string{"1 A", "1 pririty", "2 The", "2 a", "2 liink", "2 and", "2 colour", "2 isn't", "2 right", "8 goroutines", "8 ends"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("in a document: got %q, want %q", got, want)
	}

	got = nil
	for _, u := range wordsOfComments(t, "a.go", `package a

//go:build lnux

// frobnicate does what [Frobnicat] sais:
//
//	sorce
func frobnicate() {
	// Output:
	// xyzzy
}
`) {
		got = append(got, fmt.Sprintf("%d %s", u.line, u.word))
	}
	want = []string{"5 does", "5 what", "5 sais"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("in comments: got %q, want %q", got, want)
	}

	requireHunspell(t)
	unknown := unknownWords(t, append(d.words(), use{word: "goroutine"}))
	for word, want := range map[string]bool{"pririty": true, "liink": true, "colour": true, "isn't": false, "ends": false, "goroutine": true} {
		if unknown[word] != want {
			t.Errorf("the dictionary does not know %q: got %t, want %t", word, unknown[word], want)
		}
	}
	if !allows([]string{"goroutine"}, "Goroutines") || allows([]string{"Goroutine"}, "goroutine") {
		t.Error("the word list does not mind the case as it should")
	}
}
