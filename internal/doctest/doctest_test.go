package doctest

import (
	"io/fs"
	"os"
	"slices"
	"testing"
	"testing/fstest"
)

// TestDocuments checks README.md and all documents in docs/.
func TestDocuments(t *testing.T) {
	module := os.DirFS("../..")
	tests, err := Read(module)
	if err != nil {
		t.Fatal(err)
	}
	docs, err := fs.Glob(module, "docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	for _, file := range append(docs, "README.md") {
		text, err := fs.ReadFile(module, file)
		if err != nil {
			t.Fatal(err)
		}
		mentions := Mentions(file, text)
		named += len(mentions)
		for _, problem := range tests.Check(mentions) {
			t.Errorf("%s: write it, or correct the document", problem)
		}
	}
	if named == 0 {
		t.Error("no document names a test: do they still write it as `package: TestName`?")
	}
}

// TestCheck tests the checker itself on a module of three packages.
func TestCheck(t *testing.T) {
	tests, err := Read(fstest.MapFS{
		"a/a_test.go":           {Data: []byte("package a\nfunc TestOne(t *T) { t.Run(\"sub, one\", nil); t.Run(`raw`, nil) }\nfunc Testify() {}\nfunc (x X) TestMethod() {}")},
		"a/a.go":                {Data: []byte("package a\nfunc TestOfNoTestFile() {}")},
		"a/b/b_windows_test.go": {Data: []byte("package b_test\nfunc TestTwo(t *T) {}\nfunc FuzzTwo(f *F) { f.Add(\"seed\") }")},
		"c/c_test.go":           {Data: []byte("package c\nfunc TestOne(t *T) { t.Run(\"other\", nil) }\nfunc BenchmarkC(b *B) {}")},
		"c/testdata/x_test.go":  {Data: []byte("not Go")},
		".hidden/x_test.go":     {Data: []byte("not Go")},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		text string
		want []string
	}{
		"nothing":                      {"Text of `go test`, of Testing, and of contests.", nil},
		"one that is there":            {"as `TestOne` shows", nil},
		"without backquotes":           {"(TestTwo)", nil},
		"with its package":             {"| `a: TestOne` | `a/b: TestTwo` |", nil},
		"fuzz target and benchmark":    {"`a/b: FuzzTwo`, `BenchmarkC`", nil},
		"with a subtest":               {"`a: TestOne/sub, one`, `TestOne/other`, `TestOne/raw`", nil},
		"none of the name":             {"\n\nas `TestThree` shows", []string{"x.md:3: there is no TestThree"}},
		"without backquotes, none":     {"(TestThree)", []string{"x.md:1: there is no TestThree"}},
		"none in the package":          {"`a: TestTwo`", []string{"x.md:1: there is no TestTwo in a, but in a/b"}},
		"no such package":              {"`d: TestOne`", []string{"x.md:1: there is no TestOne in d, but in a, c"}},
		"no such subtest":              {"`a: TestOne/none`", []string{`x.md:1: TestOne has no subtest "none"`}},
		"a subtest of another":         {"`a: TestOne/other`", []string{`x.md:1: TestOne has no subtest "other"`}},
		"a method":                     {"`TestMethod`", []string{"x.md:1: there is no TestMethod"}},
		"not in a test's file":         {"`TestOfNoTestFile`", []string{"x.md:1: there is no TestOfNoTestFile"}},
		"each of several":              {"`TestA`, `TestOne`,\n`TestB`", []string{"x.md:1: there is no TestA", "x.md:2: there is no TestB"}},
		"no fuzz target, no benchmark": {"`FuzzA` `BenchmarkB`", []string{"x.md:1: there is no FuzzA", "x.md:1: there is no BenchmarkB"}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tests.Check(Mentions("x.md", []byte(tt.text))); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	if _, err := Read(fstest.MapFS{"a/a_test.go": {Data: []byte("not Go")}}); err == nil {
		t.Error("a file that does not parse was accepted")
	}
}
