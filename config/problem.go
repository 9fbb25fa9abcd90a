package config

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	// Key names the setting in config.yml, for example "proxy.tagttl". It is
	// empty where the problem is not with one setting.
	Key string

	// Variable is the environment variable for the setting.
	Variable string

	// Line is the line in the configuration file where the setting is, or 0
	// where it is not there or not known.
	Line int

	// Value is what was found. It is empty for secrets and for what is
	// missing.
	Value string

	// Text says what is wrong, as a continuation of Value, and what to write
	// instead.
	Text string
}

// Error implements error.
func (p *Problem) Error() string {
	var b strings.Builder
	switch {
	case p.Key != "" && p.Line > 0:
		fmt.Fprintf(&b, "%s (%s, line %d): ", p.Variable, p.Key, p.Line)
	case p.Key != "":
		fmt.Fprintf(&b, "%s (%s): ", p.Variable, p.Key)
	case p.Line > 0:
		fmt.Fprintf(&b, "line %d: ", p.Line)
	}
	if p.Value != "" {
		fmt.Fprintf(&b, "%q ", p.Value)
	}
	b.WriteString(p.Text)
	return b.String()
}

// Errors are all the problems of a configuration.
type Errors struct {
	// Source is the path of the configuration file, or empty where there is
	// none.
	Source   string
	Problems []*Problem
	// LogFormatter is the form of the log, as log.formatter, where that is one that
	// there is. It is the form in which these are best told.
	LogFormatter string
	// Files are the paths of files that were looked at: with another content of one of
	// them, the configuration may be a good one.
	Files []string
	// DataDir is Config.DataDir, where it could be read.
	DataDir string
}

// Error implements error: a heading, and one line for each problem.
func (e *Errors) Error() string {
	var b strings.Builder
	if len(e.Problems) == 1 {
		b.WriteString("1 error in the configuration")
	} else {
		fmt.Fprintf(&b, "%d errors in the configuration", len(e.Problems))
	}
	if e.Source != "" {
		fmt.Fprintf(&b, " (%s and environment)", e.Source)
	}
	b.WriteByte(':')
	for _, p := range e.Problems {
		// A value may have line breaks, but a problem is one line.
		b.WriteString("\n  " + strings.ReplaceAll(p.Error(), "\n", " "))
	}
	return b.String()
}

// Unwrap gives the problems.
func (e *Errors) Unwrap() []error {
	errs := make([]error, len(e.Problems))
	for i, p := range e.Problems {
		errs[i] = p
	}
	return errs
}

// loader collects what is wrong with a configuration while it is read.
type loader struct {
	source   string
	problems []*Problem
	warnings []string
	// lines has the line in the file of each key that was set there and not
	// overridden by a variable.
	lines map[string]int
	// variables has the variable that has set each key, which can have more than
	// one name.
	variables map[string]string
	// environment has those variables of IoT Edge that are looked at.
	environment map[string]string
	// runtimeLevel is the log level that the IoT Edge runtime gives.
	runtimeLevel string
	// logFormatter is the form of the log where it is known.
	logFormatter string
	// files are Config.Files, and looked are the paths of all that were looked at.
	files  map[string]string
	looked []string
}

// partOf notes that what was read from a file is a part of the configuration.
func (l *loader) partOf(path string, content []byte) {
	sum := sha256.Sum256(content)
	l.files[path] = hex.EncodeToString(sum[:])
	l.looked = append(l.looked, path)
}

func newLoader(source string) *loader {
	return &loader{source: source, files: map[string]string{}, lines: map[string]int{}, variables: map[string]string{}, environment: map[string]string{}}
}

func (l *loader) problem(p Problem) {
	l.problems = append(l.problems, &p)
}

// bad records that the setting key has a wrong value.
func (l *loader) bad(key, value, format string, args ...any) {
	l.problem(Problem{
		Key:      key,
		Variable: l.variable(key),
		Line:     l.lines[key],
		Value:    shown(key, value),
		Text:     fmt.Sprintf(format, args...),
	})
}

func (l *loader) warn(format string, args ...any) {
	l.warnings = append(l.warnings, fmt.Sprintf(format, args...))
}

// failed returns what was collected as an error, or nil where there is nothing.
func (l *loader) failed() *Errors {
	if len(l.problems) == 0 {
		return nil
	}
	// A value that could not be decoded can be reported a second time as one
	// that is missing: the first report is the one to keep.
	var problems []*Problem
	for _, p := range l.problems {
		if p.Key == "" || !slices.ContainsFunc(problems, func(earlier *Problem) bool {
			return earlier.Variable == p.Variable && (p.Value == "" || p.Value == earlier.Value)
		}) {
			problems = append(problems, p)
		}
	}
	slices.SortStableFunc(problems, func(a, b *Problem) int { return cmp.Compare(a.Key, b.Key) })
	return &Errors{Source: l.source, Problems: problems, LogFormatter: l.logFormatter, Files: slices.Compact(slices.Sorted(slices.Values(l.looked)))}
}

// variable returns the environment variable for a key, under the name that was used
// where one was.
func (l *loader) variable(key string) string {
	return cmp.Or(l.variables[key], variable(key))
}

// variable returns the environment variable for a key.
func variable(key string) string {
	number := ""
	if i, setting, ok := cutRemote(key); ok && setting != "" {
		key, number = join("proxy", setting), "_"+strconv.Itoa(i+2)
	}
	var steps []string
	t := reflect.TypeFor[document]()
	for step := range strings.SplitSeq(key, ".") {
		// Below what has a type, in maps, keys are their own names.
		name := strings.ToUpper(step)
		for t != nil && t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		switch {
		case t == nil:
		case t.Kind() == reflect.Slice:
			t = t.Elem()
		case isSection(t):
			fields := fieldsOf(t)
			t = nil
			for _, f := range fields {
				if f.key == step {
					name, t = f.variable, f.typ
				}
			}
		default:
			t = nil
		}
		steps = append(steps, name)
	}
	return prefix + customary(strings.Join(steps, "_")) + number
}

// cutRemote splits a key such as proxy.remotes.0.exec.command into the index of
// the remote and the setting, which is empty for the remote as a whole.
func cutRemote(key string) (index int, setting string, ok bool) {
	below, ok := strings.CutPrefix(key, "proxy.remotes.")
	if !ok {
		return 0, "", false
	}
	number, setting, _ := strings.Cut(below, ".")
	index, err := strconv.Atoi(number)
	return index, setting, err == nil
}

// secret tells whether the value of a key may not be shown. Headers are, since
// those of notifications carry Authorization, and proxies, whose URLs can have a
// password. The keys for storage are those of the stock drivers.
func secret(key string) bool {
	key = strings.ToLower(key)
	for part := range strings.SplitSeq(key, ".") {
		switch part {
		case "password", "identitytoken", "sentinelpassword", "headers", "options", "exec", "httpproxy",
			"accountkey", "accesskey", "accesskeyid", "privatekey", "credentials":
			return true
		}
		if strings.Contains(part, "secret") {
			return true
		}
	}
	// Whole sections, given as one value, have some of the above in them.
	section := strings.TrimRight(key, ".0123456789")
	if key != section && !strings.HasPrefix(key[len(section):], ".") {
		section = key // the digits are of a name, such as s3
	}
	switch section {
	case "proxy", "http", "redis", "auth", "notifications", "notifications.endpoints", "middleware", "proxy.remotes",
		"storage", "log", "log.hooks", "health", "health.http":
		return true
	}
	driver, ok := strings.CutPrefix(section, "storage.")
	return ok && !strings.Contains(driver, ".")
}

// mayBeContent tells whether the value of a key, which is to be the path of a file
// with secrets, may be what was to be in it.
func mayBeContent(key, value string) bool {
	switch key[strings.LastIndexByte(key, '.')+1:] {
	case "passwordfile", "identitytokenfile", "tokenfile", "dockerconfig":
		return !isPath(value)
	}
	return false
}

// maxShown is how much of a value a message shows, in bytes: enough to
// recognize it.
const maxShown = 80

// shown returns the value of a key as a message may show it.
func shown(key, value string) string {
	if secret(key) || mayBeContent(key, value) {
		return ""
	}
	value = redactUserinfo(value)
	if i := strings.IndexAny(value, "?#"); i >= 0 && (strings.Contains(value, "://") || strings.HasSuffix(key, "url")) {
		value = value[:i+1] + "..." // there are tokens in queries
	}
	if len(value) > maxShown {
		value = strings.ToValidUTF8(value[:maxShown], "") + "..."
	}
	return value
}

// redactUserinfo hides what comes before an @ in something that may be a URL.
// Packages that parse URLs put them into their errors as they are, so this has
// to work on text that is no valid URL.
func redactUserinfo(s string) string {
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return s
	}
	scheme, _, found := strings.Cut(s[:at], "://")
	if !found {
		return "REDACTED" + s[at:]
	}
	return scheme + "://REDACTED" + s[at:]
}
