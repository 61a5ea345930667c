package taskpoolvet

import (
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/tools/go/analysis"
	"golang.org/x/tools/go/analysis/analysistest"
)

// The directories of testdata are named after the analyzers. Their code uses the real
// package, and comments in it say what must be found; all else is good.
func TestEachAnalyzerFindsWhatItSaysAndNothingElse(t *testing.T) {
	var mu sync.Mutex // packages are analyzed side by side
	tested := make(map[string]bool)
	// One analyzer stands for all, so that the package is loaded once.
	all := &analysis.Analyzer{Name: "all", Doc: "run the analyzer that the package is named after", Requires: []*analysis.Analyzer{tasks}}
	all.Run = func(pass *analysis.Pass) (any, error) {
		for _, a := range Analyzers {
			switch path.Base(pass.Pkg.Path()) {
			case a.Name:
				mu.Lock()
				tested[a.Name] = true
				mu.Unlock()
			case "readme": // is for all
			default:
				continue
			}
			if _, err := a.Run(pass); err != nil {
				return nil, err
			}
		}
		return nil, nil
	}
	analysistest.Run(t, analysistest.TestData(), all, "testdata/...")
	require.Len(t, tested, len(Analyzers))
}

// So that what it calls bad is found, and what it calls good is not.
func TestTheCodeInTheReadmeIsAnalyzedToo(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	analyzed, err := os.ReadFile("testdata/readme/readme.go")
	require.NoError(t, err)
	lines := strings.Split(string(analyzed), "\n")
	blocks := strings.Split(string(readme), "\n```\n")
	require.Greater(t, len(blocks), 2*len(Analyzers))
	for i := 1; i < 2*len(Analyzers); i += 2 {
		for shown := range strings.SplitSeq(blocks[i], "\n") {
			require.True(t, slices.ContainsFunc(lines, func(l string) bool {
				return strings.HasPrefix(strings.Join(strings.Fields(l), " "), shown)
			}), shown)
		}
	}
}

func TestEachAnalyzerIsDescribedWhereItsURLPoints(t *testing.T) {
	require.NoError(t, analysis.Validate(Analyzers))
	for _, a := range Analyzers {
		require.True(t, strings.HasPrefix(a.Doc, "report "), a.Doc)
		require.NotContains(t, a.Doc, "//\n")
		require.NotContains(t, a.Doc, "# Analyzer")
		require.Equal(t, "https://pkg.go.dev/github.com/taskpool-go/taskpool/taskpoolvet#hdr-Analyzer_"+a.Name, a.URL)
	}
}
