package config

import (
	"reflect"
	"slices"
	"strings"
)

// fileSuffix ends the name of a variable that has the path of a file in place of a
// secret: support bundles and docker inspect show what is in the environment.
const fileSuffix = "_FILE"

// maxSecret is the size in bytes up to which the file of a secret is read: arbitrary,
// more than any header that a server takes.
const maxSecret = 64 << 10

// cutFile takes the suffix out of the name of a variable, whose number stays:
// PROXY_HTTPPROXY_FILE_2 is the file of PROXY_HTTPPROXY_2.
func cutFile(path string) (direct string, ok bool) {
	before, number, ok := cutNumber(path)
	if !ok {
		return strings.CutSuffix(path, fileSuffix)
	}
	direct, ok = strings.CutSuffix(before, fileSuffix)
	return direct + "_" + number, ok
}

// inFiles are the settings that can be read from a file by the name of their variable
// with a suffix: those that are a secret and nothing else. Of passwords and identity
// tokens of remotes it is the path that is a setting; their files are read again when
// they have changed.
var inFiles = []string{"secret", "httpproxy", "password", "sentinelpassword"}

// mayBeInFile tells whether a setting can be read from a file. Headers that are sent
// can, since most of them are for Authorization.
func mayBeInFile(key string, t reflect.Type) bool {
	steps := strings.Split(key, ".")
	last := steps[len(steps)-1]
	if len(steps) > 1 && steps[len(steps)-2] == "headers" {
		return steps[0] != "http" && t == reflect.TypeFor[[]string]() // http.headers are for all to see
	}
	return t.Kind() == reflect.String && slices.Contains(inFiles, last)
}

// setFromFile sets v, which mayBeInFile, to what the file holds that the variable names:
// plain text, and not YAML as in variables.
func (a assignment) setFromFile(v reflect.Value, key string) {
	if a.value == "" || !a.claim(key) {
		return
	}
	bad := func(text string) {
		p := Problem{Key: key, Variable: a.variable, Text: text}
		if isPath(a.value) {
			p.Value = a.value
		} else {
			p.Text += ", and not what it holds"
		}
		a.loader.problem(p)
	}
	content, err := readRegularFile(a.value)
	a.loader.partOf(a.value, content)
	// Editors and shells end a file with a line break, which is not meant.
	text := strings.TrimRight(string(content), "\r\n")
	switch {
	case err != nil:
		bad(unreadable(err).Error())
	case len(content) > maxSecret:
		bad("is larger than 64 KiB: write the path of a file that holds the value alone")
	case text == "":
		bad("is empty: write the path of a file that holds the value")
	case strings.ContainsAny(text, "\r\n\x00"):
		bad("has more than one line: write the path of a file that holds the value alone")
	case v.Kind() == reflect.String:
		v.SetString(text)
	default:
		v.Set(reflect.ValueOf([]string{text}))
	}
}

// isPath tells whether value is written as a path and not as what would be in a file.
func isPath(value string) bool {
	return strings.HasPrefix(value, "/") || strings.HasPrefix(value, "./") || strings.HasPrefix(value, "../")
}
