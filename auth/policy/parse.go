package policy

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"

	"registry-module/internal/pattern"
)

const (
	// MaxSize is how long a policy file may be, in bytes: hundreds of rules have some
	// dozens of kilobytes.
	MaxSize = 256 << 10
	// maxDepth is how deep a file nests: a list of rules with lists.
	maxDepth = 20
	// maxProblems is how many mistakes are told.
	maxProblems = 50
	// maxName is how long a name of a user or a certificate may be, in bytes.
	maxName = 255
)

// Parse reads a policy file, which is YAML:
//
//	rules:
//	  - users: [line1, "line-*"]
//	    certificates: ["press-*"]
//	    anonymous: false
//	    pull: ["team/**", "docker.io/library/*"]
//	    deny: ["team/secret/**"]
//	    catalog: true
//
// The error tells all that is wrong, a line for each mistake, with its place where it is
// known.
func Parse(text []byte) (*Policy, error) {
	p := &parser{}
	var rules []rule
	if top := p.load(text); top != nil {
		rules = p.file(top)
	}
	if len(p.problems) > 0 {
		return nil, errors.Join(p.problems...)
	}
	return newPolicy(rules), nil
}

// parser collects what is wrong.
type parser struct {
	problems []error
}

// bad records a mistake in a line; 0 is none.
func (p *parser) bad(line int, format string, args ...any) {
	switch text := fmt.Sprintf(format, args...); {
	case len(p.problems) > maxProblems:
	case len(p.problems) == maxProblems:
		p.problems = append(p.problems, errors.New("and more"))
	case line > 0:
		p.problems = append(p.problems, fmt.Errorf("line %d: %s", line, text))
	default:
		p.problems = append(p.problems, errors.New(text))
	}
}

// load returns the only document of a text; nil where there is none.
func (p *parser) load(text []byte) (top *yaml.Node) {
	if len(text) > MaxSize {
		p.bad(0, "the policy has more than %d bytes", MaxSize)
		return nil
	}
	// Package yaml panics where it finds that it is not in order itself.
	defer func() {
		if recover() != nil {
			p.bad(0, "the policy cannot be read as YAML")
			top = nil
		}
	}()
	loader, err := yaml.NewLoader(strings.NewReader(string(text)), yaml.WithPlugin(loaderlimits.New(loaderlimits.DepthValue(maxDepth))))
	if err != nil {
		p.bad(0, "the policy cannot be read as YAML")
		return nil
	}
	var doc, next yaml.Node
	switch err := loader.Load(&doc); {
	case errors.Is(err, io.EOF):
		p.bad(0, "the policy is empty, so that nobody could pull anything: write rules")
		return nil
	case err != nil:
		p.unreadable(err)
		return nil
	}
	if err := loader.Load(&next); !errors.Is(err, io.EOF) {
		p.bad(next.Line, "the policy has more than one YAML document: write all rules in one")
		return nil
	}
	if doc.Kind == yaml.DocumentNode && len(doc.Content) == 1 {
		return doc.Content[0]
	}
	return &doc
}

// unreadable records an error of package yaml.
func (p *parser) unreadable(err error) {
	e := new(yaml.LoadError)
	switch {
	case !errors.As(err, &e):
		p.bad(0, "the policy cannot be read as YAML")
	case e.Stage == yaml.ComposerStage, strings.Contains(e.ContextMsg+e.Message, "alias"):
		p.bad(e.Mark.Line, "a pattern begins with *: put it in quotation marks")
	default:
		p.bad(e.Mark.Line, "the policy cannot be read as YAML: %.200s", e.Message)
	}
}

// fields calls use for each key of a mapping with its value, and records keys that are
// none of known, or there twice. It returns false where n is no mapping.
func (p *parser) fields(n *yaml.Node, where string, known []string, use func(key string, value *yaml.Node)) bool {
	if n.Kind != yaml.MappingNode {
		return false
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		switch {
		case key.Kind != yaml.ScalarNode || !slices.Contains(known, key.Value):
			p.bad(key.Line, "%s%.100q is not known: write %s", where, key.Value, strings.Join(known, ", "))
		case seen[key.Value]:
			p.bad(key.Line, "%s%s is there twice", where, key.Value)
		default:
			seen[key.Value] = true
			use(key.Value, value)
		}
	}
	return true
}

// file reads the whole of a policy.
func (p *parser) file(top *yaml.Node) (rules []rule) {
	var list *yaml.Node
	if !p.fields(top, "", []string{"rules"}, func(_ string, value *yaml.Node) { list = value }) {
		p.bad(top.Line, "the policy is not a mapping: write rules: and below it a list")
		return nil
	}
	switch {
	case list == nil && len(p.problems) > 0:
		return nil // which was a misspelt name of it
	case list == nil:
		p.bad(0, "the policy has no rules, so that nobody could pull anything: write rules: and below it a list")
		return nil
	case list.Kind != yaml.SequenceNode || len(list.Content) == 0:
		p.bad(list.Line, "rules is not a list of rules: write them below it, each after a dash; without any nobody could pull anything")
		return nil
	}
	for i, n := range list.Content {
		rules = append(rules, p.rule(n, fmt.Sprintf("rules[%d]", i)))
	}
	return rules
}

// ruleKeys are what a rule can have.
var ruleKeys = [...]string{"users", "certificates", "anonymous", "pull", "deny", "catalog"}

// rule reads one rule.
func (p *parser) rule(n *yaml.Node, where string) (r rule) {
	before := len(p.problems)
	there := p.fields(n, where+".", ruleKeys[:], func(key string, value *yaml.Node) {
		where := where + "." + key
		switch key {
		case "users":
			r.users = p.names(value, where)
		case "certificates":
			r.certificates = p.names(value, where)
		case "anonymous":
			r.anonymous = p.yes(value, where)
		case "pull":
			r.pull = p.patterns(value, where)
		case "deny":
			r.deny = p.patterns(value, where)
		case "catalog":
			r.catalog = p.yes(value, where)
		}
	})
	switch {
	case !there:
		p.bad(n.Line, "%s is not a rule: write %s as key: value", where, strings.Join(ruleKeys[:], ", "))
	case len(p.problems) > before:
		// What is missing may be what could not be read.
	case len(r.users) == 0 && len(r.certificates) == 0 && !r.anonymous:
		p.bad(n.Line, "%s is about nobody: write users, certificates, or anonymous: true", where)
	case len(r.pull) == 0 && len(r.deny) > 0:
		p.bad(n.Line, "%s denies what it does not allow: deny takes away from pull of the same rule, and all that no rule allows is denied anyway", where)
	case len(r.pull) == 0 && !r.catalog:
		p.bad(n.Line, "%s allows nothing: write pull, or catalog: true", where)
	}
	return r
}

// yes reads true or false.
func (p *parser) yes(n *yaml.Node, where string) bool {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!bool" {
		switch strings.ToLower(n.Value) {
		case "true":
			return true
		case "false":
			return false
		}
	}
	p.bad(n.Line, "%s is not a yes or no: write true or false", where)
	return false
}

// texts calls use for each text of a list.
func (p *parser) texts(n *yaml.Node, where, example string, use func(n *yaml.Node)) {
	if n.Kind != yaml.SequenceNode {
		p.bad(n.Line, "%s is not a list: write for example [%s]", where, example)
		return
	}
	for _, item := range n.Content {
		switch {
		case item.Kind == yaml.AliasNode:
			p.bad(item.Line, "%s has a value that begins with *: put it in quotation marks", where)
		case item.Kind != yaml.ScalarNode || item.ShortTag() == "!!null":
			p.bad(item.Line, "%s has something that is not text: put it in quotation marks", where)
		default:
			use(item)
		}
	}
}

// names reads names of users or certificates.
func (p *parser) names(n *yaml.Node, where string) (names []wildcard) {
	p.texts(n, where, `line1, "line-*"`, func(item *yaml.Node) {
		switch name := item.Value; {
		case name == "":
			p.bad(item.Line, "%s has an empty name", where)
		case len(name) > maxName || strings.ContainsFunc(name, unicode.IsControl):
			p.bad(item.Line, "%s: %.50q is no name: up to %d bytes without control characters", where, name, maxName)
		default:
			names = append(names, newWildcard(name))
		}
	})
	return names
}

// patterns reads patterns for names of repositories.
func (p *parser) patterns(n *yaml.Node, where string) (patterns []pattern.Pattern) {
	p.texts(n, where, `"team/**", "docker.io/library/*"`, func(item *yaml.Node) {
		compiled, err := pattern.CompileWithPort(item.Value)
		if err != nil {
			p.bad(item.Line, "%s: %.100q %v", where, item.Value, err)
			return
		}
		patterns = append(patterns, compiled)
	})
	return patterns
}
