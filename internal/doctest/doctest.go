// Package doctest finds the tests that documents name and that do not exist, so that
// what a document says to be tested is. It reads Markdown and the test files of all
// platforms, and trusts only that these parse.
//
// It does not run anything: that a test passes is for the go command to say. The
// package imports nothing of this module.
package doctest

import (
	"bytes"
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Mention is a test, fuzz target or benchmark that a document names.
type Mention struct {
	// File and Line are where.
	File string
	Line int
	// Package is the directory of the test in the module, with slashes. It is
	// empty where the document gives none.
	Package string
	// Name is the name of the function.
	Name string
	// Subtest is what follows it after a slash, as it is written in the code: with
	// spaces. It is empty where the document names the whole test.
	Subtest string
}

// mention is `package: TestName/subtest`, of which the package and the subtest may
// be missing; then it need not be in backquotes either.
var mention = regexp.MustCompile("(?:`([^`\\s]+): )?\\b((?:Test|Fuzz|Benchmark)[A-Z][0-9A-Za-z_]*)(?:/([^`\n]+)`)?")

// Mentions returns what the document file, with the given text, names, in order.
func Mentions(file string, text []byte) []Mention {
	var all []Mention
	line := 0
	for l := range bytes.Lines(text) {
		line++
		for _, m := range mention.FindAllSubmatch(l, -1) {
			all = append(all, Mention{file, line, string(m[1]), string(m[2]), string(m[3])})
		}
	}
	return all
}

// Tests are the test functions of a module: of each directory, by name. A function has
// the texts of all string literals in it.
type Tests map[string]map[string][]string

// isTest matches the names of the functions that the go command runs.
var isTest = regexp.MustCompile(`^(?:Test|Fuzz|Benchmark)[A-Z]`)

// Read returns the tests of the module whose root is fsys.
func Read(fsys fs.FS) (Tests, error) {
	tests := Tests{}
	err := fs.WalkDir(fsys, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := path.Base(name)
		if entry.IsDir() {
			// As the go command has it.
			if name != "." && (base == "testdata" || base == "vendor" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_")) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(base, "_test.go") {
			return nil
		}
		return tests.read(fsys, name)
	})
	return tests, err
}

// read adds what is in one file.
func (t Tests) read(fsys fs.FS, name string) error {
	text, err := fs.ReadFile(fsys, name)
	if err != nil {
		return err
	}
	file, err := parser.ParseFile(token.NewFileSet(), name, text, parser.SkipObjectResolution)
	if err != nil {
		return fmt.Errorf("parsing: %w", err)
	}
	for _, decl := range file.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || f.Recv != nil || !isTest.MatchString(f.Name.Name) {
			continue
		}
		dir := path.Dir(name)
		if t[dir] == nil {
			t[dir] = map[string][]string{}
		}
		t[dir][f.Name.Name] = literals(f)
	}
	return nil
}

// literals returns the texts of the string literals in a function.
func literals(f *ast.FuncDecl) []string {
	texts := []string{}
	ast.Inspect(f, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if s, err := strconv.Unquote(lit.Value); err == nil {
				texts = append(texts, s)
			}
		}
		return true
	})
	return texts
}

// Check returns what is wrong with mentions, a sentence for each. A subtest is taken
// for one that exists where its name is a string in the test.
func (t Tests) Check(mentions []Mention) []string {
	var wrong []string
	for _, m := range mentions {
		if problem := t.problem(m); problem != "" {
			wrong = append(wrong, fmt.Sprintf("%s:%d: %s", m.File, m.Line, problem))
		}
	}
	return wrong
}

func (t Tests) problem(m Mention) string {
	dirs := slices.DeleteFunc(slices.Sorted(maps.Keys(t)), func(dir string) bool { return t[dir][m.Name] == nil })
	switch {
	case len(dirs) == 0:
		return "there is no " + m.Name
	case m.Package != "" && !slices.Contains(dirs, m.Package):
		return fmt.Sprintf("there is no %s in %s, but in %s", m.Name, m.Package, strings.Join(dirs, ", "))
	case m.Subtest == "":
		return ""
	}
	for _, dir := range dirs {
		if dir == cmp.Or(m.Package, dir) && slices.Contains(t[dir][m.Name], m.Subtest) {
			return ""
		}
	}
	return fmt.Sprintf("%s has no subtest %q", m.Name, m.Subtest)
}
