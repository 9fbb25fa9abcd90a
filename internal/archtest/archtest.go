// Package archtest holds the architecture of registry-module as a test: which
// package may import which, and that each has a package comment. It reads the
// source files of all platforms, and trusts only that they parse.
//
// The rules with their reasons are the table in its test. The package imports
// nothing of this module.
package archtest

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Package is what the rules are about.
type Package struct {
	// Dir is the directory in the module, with slashes, for example
	// "cache/disk".
	Dir string
	// Name is the package's name, without the suffix of external tests.
	Name string
	// Imports are what files other than tests import.
	Imports []string
	// Comments has the first line of each package comment, of tests too.
	Comments []string
}

// Rules say what is allowed.
type Rules struct {
	// Module is the path of the module.
	Module string
	// Local has for each package, or for all below a directory in the form
	// "e2e/...", what it may import of the module.
	Local map[string]Rule
	// Restricted has import paths, each with all below it, that only some
	// packages may import.
	Restricted map[string]Rule
}

// Rule is one entry of [Rules].
type Rule struct {
	// Packages are directories in the module, or patterns such as
	// "internal/...".
	Packages []string
	// Reason says why it is so, for who is stopped by it.
	Reason string
}

// Check returns what is wrong with packages, a sentence for each.
func (r Rules) Check(packages []Package) []string {
	var wrong []string
	used := map[string]bool{}
	for _, p := range packages {
		key, rule, ok := r.local(p.Dir)
		if !ok {
			wrong = append(wrong, fmt.Sprintf("%s has no rule: add it to the table in internal/archtest, "+
				"with what it may import of the module and why", p.Dir))
			continue
		}
		used[key] = true
		for _, imported := range p.Imports {
			if dir, ok := strings.CutPrefix(imported, r.Module+"/"); ok && !matchesAny(rule.Packages, dir) {
				wrong = append(wrong, fmt.Sprintf("%s must not import %s: %s", p.Dir, dir, rule.Reason))
			}
			for restricted, rule := range r.Restricted {
				if matches(restricted+"/...", imported) && !matchesAny(rule.Packages, p.Dir) {
					wrong = append(wrong, fmt.Sprintf("%s must not import %s: %s", p.Dir, imported, rule.Reason))
				}
			}
		}
		if problem := p.comment(); problem != "" {
			wrong = append(wrong, problem)
		}
	}
	for key := range r.Local {
		if !used[key] {
			wrong = append(wrong, fmt.Sprintf("%s has a rule but no package: remove it from the table in internal/archtest", key))
		}
	}
	slices.Sort(wrong)
	return wrong
}

// local returns the rule for a package: its own, else that of the nearest
// directory above it.
func (r Rules) local(dir string) (key string, rule Rule, ok bool) {
	if rule, ok := r.Local[dir]; ok {
		return dir, rule, true
	}
	for above := dir; above != "."; above = path.Dir(above) {
		key := above + "/..."
		if rule, ok := r.Local[key]; ok {
			return key, rule, true
		}
	}
	return "", Rule{}, false
}

// comment returns what is wrong with the comment of p.
func (p Package) comment() string {
	switch {
	case len(p.Comments) == 0:
		return p.Dir + " has no package comment: say what it promises, what it trusts and what it may import"
	case len(p.Comments) > 1:
		return fmt.Sprintf("%s has %d package comments: keep one", p.Dir, len(p.Comments))
	case p.Name != "main" && !strings.HasPrefix(p.Comments[0], "Package "+p.Name+" "):
		return fmt.Sprintf("%s has a package comment that does not begin with %q", p.Dir, "Package "+p.Name)
	}
	return ""
}

// matches tells whether s is pattern, or at or below what comes before its
// "/...".
func matches(pattern, s string) bool {
	root, all := strings.CutSuffix(pattern, "/...")
	return s == root || all && strings.HasPrefix(s, root+"/")
}

func matchesAny(patterns []string, s string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return matches(pattern, s) })
}

// Read returns the packages of the module whose root is fsys.
func Read(fsys fs.FS) ([]Package, error) {
	byDir := map[string]*Package{}
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
		if filepath.Ext(base) != ".go" {
			return nil
		}
		dir := path.Dir(name)
		if byDir[dir] == nil {
			byDir[dir] = &Package{Dir: dir}
		}
		return byDir[dir].read(fsys, name)
	})
	packages := make([]Package, 0, len(byDir))
	for _, p := range byDir {
		slices.Sort(p.Imports)
		p.Imports = slices.Compact(p.Imports)
		packages = append(packages, *p)
	}
	slices.SortFunc(packages, func(a, b Package) int { return cmp.Compare(a.Dir, b.Dir) })
	return packages, err
}

// read adds what is in one file to p.
func (p *Package) read(fsys fs.FS, name string) error {
	text, err := fs.ReadFile(fsys, name)
	if err != nil {
		return err
	}
	file, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ImportsOnly|parser.ParseComments)
	if err != nil {
		return fmt.Errorf("parsing: %w", err)
	}
	p.Name = strings.TrimSuffix(file.Name.Name, "_test")
	if line := firstLine(file.Doc); line != "" {
		p.Comments = append(p.Comments, line)
	}
	if strings.HasSuffix(name, "_test.go") {
		return nil // tests may use what they like
	}
	for _, spec := range file.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return fmt.Errorf("reading an import of %s: %w", name, err)
		}
		p.Imports = append(p.Imports, imported)
	}
	return nil
}

// firstLine returns the first line of a comment, or nothing where there is
// none but directives.
func firstLine(doc *ast.CommentGroup) string {
	line, _, _ := strings.Cut(doc.Text(), "\n")
	return line
}
