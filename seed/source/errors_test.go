package source

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"registry-module/seed"
)

func TestErrors(t *testing.T) {
	manifest := func(image string) string {
		return "{\"modulesContent\": {\"$edgeAgent\": {\"properties.desired\": {\"modules\": {\n\"a\": {\"settings\": {\n\"image\": " + image + "}}}}}}}"
	}
	for name, tt := range map[string]struct {
		text string
		want []string // each a part of the error
		not  string   // and this none
	}{
		"nothing":                   {"", []string{"f: is empty: write images"}, ""},
		"spaces":                    {" \r\n\t\n", []string{"f: is empty"}, ""},
		"mark of bytes alone":       {"\xef\xbb\xbf", []string{"f: is empty"}, ""},
		"comments alone":            {"# a\n  # b\n", []string{"f: is empty"}, ""},
		"documents without content": {"---\n---\n", []string{"f: is empty"}, ""},
		"null":                      {"--- null", []string{"f: is empty"}, ""},
		"gzip":                      {"\x1f\x8b\x08\x00", []string{"is compressed with gzip: decompress it first, for example with gzip -dc"}, ""},
		"zstd":                      {"\x28\xb5\x2f\xfd\x00", []string{"is compressed with zstd"}, ""},
		"xz":                        {"\xfd7zXZ\x00", []string{"is compressed with xz"}, ""},
		"bzip2":                     {"BZh91AY&SY\x00", []string{"is compressed with bzip2"}, ""},
		"zip":                       {"PK\x03\x04", []string{"is a zip archive"}, ""},
		"tar":                       {strings.Repeat("\x00", 257) + "ustar\x00", []string{"is a tar archive", "bundle load"}, ""},
		"binary":                    {"\x7fELF\x00\x01", []string{"is not text in UTF-8"}, ""},
		"other encoding":            {"caf\xe9", []string{"is not text in UTF-8"}, ""},
		"half of UTF-16":            {"\xff\xfea", []string{"is not text in UTF-8"}, ""},
		"prose": {"Dear all,\nhere are the images <as promised>.\n", []string{
			"f: is in none of the formats", "line 1 is no image", "no modulesContent", "no services", "no apiVersion and kind", "no seed file (no images)"}, "Dear"},
		"page":           {"<!DOCTYPE html>\n", []string{"f: is in none of the formats"}, ""},
		"values":         {"replicaCount: 1\npassword: hunter2\n", []string{"f: is in none of the formats", "it is YAML or JSON"}, "hunter2"},
		"number":         {"--- 1", []string{"f: is in none of the formats"}, ""},
		"list of lists":  {"[[a]]", []string{"f: is in none of the formats"}, ""},
		"template":       {"{{- if .Values.a }}\nkind: x\n{{- end }}\n", []string{"is not readable as JSON", "helm template"}, ""},
		"template below": {"kind: x\nspec:\n  {{- if a }}\n  b: 1\n", []string{"f, line 3: is not readable as YAML", "helm template"}, ""},

		"list": {"nginx\nA/b:1\nhttps://a/b\nx y\na:b:c\n@x\na@sha256:12\na:\n" + sum + "\n$TAG/a\n$upstream:x/a\n$upstream:8000/\nuser:hunter2@quay.io/a\n", []string{
			`f, line 3: "https://a/b" is a URL`, `f, line 4: "x y" has a space in it`, `f, line 5: "a:b:c" is not an image`,
			`f, line 7: "a@sha256:12" has a digest that is none`, `f, line 8: "a:" ends where a tag`,
			"f, line 9: \"" + sum + "\" is a digest without a name", `f, line 10: "$TAG/a" has a $ that is none`,
			`f, line 11: "$upstream:x/a" has a $`, `f, line 12: "$upstream:8000/" names no repository`, "f, line 13: \"REDACTED@quay.io/a\""}, "hunter2"},
		"upper case":         {"nginx\nquay.io/Team/app:1", []string{`f, line 2: "quay.io/Team/app:1" has an upper-case letter`}, ""},
		"one wrong image":    {"quay.io/Team/app:1", []string{`f, line 1: "quay.io/Team/app:1" has an upper-case letter`}, ""},
		"tag":                {"nginx\na:-x", []string{`f, line 2: "a:-x" has a tag that is none`}, ""},
		"escape sequence":    {"nginx\na\x1b[31m", []string{`f, line 2: "a?[31m"`}, "\x1b"},
		"long line":          {"nginx\n" + strings.Repeat("a", 5000), []string{"is too long for an image"}, strings.Repeat("a", 200)},
		"long image":         {"nginx\n" + strings.Repeat("a/", 600) + "a", []string{"is too long for an image"}, strings.Repeat("a/", 100)},
		"number in a list":   {"- a\n- 5\n", []string{"f, line 2: element 2 is not text"}, ""},
		"placeholders":       {"${A}/a\n${B.C}/${A}\n${EMPTY}/a\n", []string{"f: placeholders have no value: A (line 1; line 2), B.C (line 2), EMPTY (line 3): set environment variables"}, "no image"},
		"placeholder's end":  {"a:1\n${A/a\n", []string{`f, line 2: "${A/a" has a placeholder without its end`}, ""},
		"placeholders in":    {"a:1\n" + strings.Repeat("${A:-", 20) + strings.Repeat("}", 20), []string{"has a placeholder without its end"}, ""},
		"value is secret":    {"a:1\n${SECRET}/a", []string{`f, line 2: "${SECRET}/a", with its placeholders filled in, has a space`}, "hunter2"},
		"value is not read":  {"a:1\na:${DOLLAR}", []string{"has a $ that is none of a placeholder"}, ""},
		"compose: no value":  {"services:\n  a: {image: 'x:${A?say which}$B${C:?}'}", []string{"A (service a, line 2), B (service a, line 2), C (service a, line 2)"}, "say which"},
		"compose: dollar":    {"services:\n  a: {image: 'x$$y'}", []string{`f, line 2, service a: "x$$y", with its placeholders filled in, has a $`}, ""},
		"compose: number":    {"services:\n  a:\n    image: 1\n", []string{"f, line 3, service a: image is not text"}, ""},
		"compose: list":      {"services: [a]", []string{"services is no mapping"}, ""},
		"compose: text":      {"services: {a: b}", []string{"f, line 1, service a: is no mapping"}, ""},
		"compose: two":       {"services: {a: {image: b}}\n---\nservices: {a: {image: b}}\n", []string{"f, line 3: begins another document"}, ""},
		"manifest: image":    {manifest(`"A b"`), []string{`f, line 3, module a: "A b" has a space`}, ""},
		"manifest: empty":    {manifest(`" "`), []string{`f, line 3, module a: "" is empty`}, ""},
		"manifest: number":   {manifest("1"), []string{"f, line 3, module a: settings.image is not text"}, ""},
		"manifest: no value": {manifest(`"${A}/$B:${MODULES.x.amd64}"`), []string{"placeholders have no value: A (module a, line 3), B (module a, line 3): set", "; and placeholders stand for images that are built from the project of the template: MODULES.x.amd64 (module a, line 3)"}, ""},
		"manifest: agent":    {`{"modulesContent": {"$edgeAgent": 1}}`, []string{"modulesContent.$edgeAgent is no object"}, ""},
		"manifest: modules":  {`{"modulesContent": {"$edgeAgent": {"properties.desired": {"modules": []}}}}`, []string{"the modules are no object"}, ""},
		"JSON: cut":          {"{\"modulesContent\":\n{\"password\": \"hunter2", []string{"f, line 2: is not readable as JSON: it ends in the middle"}, "hunter2"},
		"JSON: comma":        {"{\"a\": 1,\n\"password\": \"hunter2\"\n\"b\": 1}", []string{"f, line 3: is not readable as JSON: invalid character '\"'"}, "hunter2"},
		"JSON: placeholder":  {"{\"a\":\n ${B}}", []string{"f, line 2: is not readable as JSON", "placeholders such as ${VARIABLE} have to be in quotation marks"}, ""},
		"JSON: deep":         {strings.Repeat(`{"a":`, 101), []string{"it has more than 100 levels"}, ""},
		"YAML: indent":       {"services:\n  a:\n b: 1\n", []string{"f, line 3: is not readable as YAML"}, ""},
		"YAML: anchor":       {"services:\n  a: *hunter2\n", []string{"f, line 2: is not readable as YAML: a value begins with * or &"}, "hunter2"},
		"YAML: quotes":       {"services:\n  a: 'hunter2\n", []string{"is not readable as YAML"}, "hunter2"},
		"YAML: tag":          {"services:\n  a: !hunter2!x y\n", []string{"is not readable as YAML"}, "hunter2"},
		"YAML: cycle":        {"services: &a\n  b: {image: *a}\n", []string{"f, line 2: is not readable as YAML: an alias is within what it stands for"}, ""},
		"YAML: merged cycle": {"services:\n  a: &a\n    <<: *a\n", []string{"an alias is within"}, ""},
		"YAML: deep":         {"services: " + strings.Repeat("[", 5000), []string{"it has more than 100 levels"}, ""},
		"YAML: deep aliases": {deepAliases(), []string{"it has more than 100 levels"}, ""},
		"objects: image":     {"apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: c\n    image: A b\n", []string{`f, line 7, Pod p, container c: "A b" has a space`}, ""},
		"objects: number":    {"apiVersion: v1\nkind: Pod\nspec: {containers: [{image: 1}]}\n", []string{"f, line 3, Pod, container: image is not text"}, ""},
		"objects: no value":  {"apiVersion: v1\nkind: Pod\nspec: {containers: [{image: 'a:${X}'}]}\n", []string{"X (Pod, container, line 3)"}, ""},

		"seed file: all": {"version: 2\nschedule: [daily, 5]\nimgaes: []\nprune: yes please\npin: 1\nplatforms: [arm64, 'linux/ARM']\n" +
			"images:\n- image: a:1\n  tags: {newest: 1}\n- {tags: {}}\n- image: b\n  tags: {glob: '[', regexp: '(', newest: -1, x: 1}\n- [a]\n- image: c\n  pin: no\n  pin: true\n- A\n", []string{
			"f, line 1: its version is none that is known", `f, line 2: schedule "daily" is no cron expression`, "f, line 2: schedule is not text",
			`f, line 3: "imgaes" is no key that is known here: write one of version, schedule`, "f, line 4: prune is no yes or no", "f, line 5: pin is no yes or no",
			`f, line 6: "arm64" is no platform`, `f, line 6: "linux/ARM" is no platform`, `f, line 8: "a:1" has a tag or a digest, and tags beside it`,
			"f, line 10: has no image", `f, line 12: glob "[" is no pattern`, `f, line 12: regexp "(" is no regular expression`, "f, line 12: newest is no number",
			`f, line 12: "x" is no key`, "f, line 13: is no image: write it as text", "f, line 16: pin is there twice", `f, line 17: "A" has an upper-case letter`}, ""},
		"seed file: version":  {"images: [a]", []string{"f: has no version: write version: 1"}, ""},
		"seed file: empty":    {"version: 1\nimages: []\n", []string{"f, line 2: names no image"}, ""},
		"seed file: nothing":  {"version: 1\nprune: true\n", []string{"f: names no image"}, ""},
		"seed file: digest":   {"version: 1\nimages: [{image: a@" + sum + ", tags: {}}]\n", []string{"has a tag or a digest, and tags beside it"}, ""},
		"seed file: checks":   {"version: 1\nschedule: 0 0 31 2 *\nimages:\n- image: a\n  tags: {semver: x}\n", []string{`f, line 2: schedule "0 0 31 2 *" never comes`, "f, line 5: tags have no range"}, ""},
		"seed file: elements": {"version: 1\nplatforms: [" + strings.Repeat("a/b,", 101) + "]\nimages: [a]", []string{"f, line 2: platforms has more than 100 elements"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{Lookup: variables}
			if name == "seed file: checks" {
				o.CheckSchedule = func(string) error { return errors.New("never comes") }
				o.CheckTags = func(seed.Tags) error { return errors.New("have no range") }
			}
			d, err := Read("f", strings.NewReader(tt.text), o)
			if err == nil {
				t.Fatalf("no error: %+v", d)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v\nhas no %q", err, want)
				}
			}
			if tt.not != "" && strings.Contains(err.Error(), tt.not) {
				t.Errorf("%v\nhas %q", err, tt.not)
			}
			if len(d.Wants) > 0 || d.Kind != "" {
				t.Errorf("a document beside the error: %+v", d)
			}
		})
	}
}

func TestNothingFromVariables(t *testing.T) {
	_, err := Read("f", strings.NewReader("${TAG}"), Options{})
	if err == nil || !strings.Contains(err.Error(), "TAG (line 1)") {
		t.Error(err)
	}
}

func TestReadError(t *testing.T) {
	broken := errors.New("cut")
	if _, err := Read("f", io.MultiReader(strings.NewReader("nginx\n"), iotest.ErrReader(broken)), Options{}); !errors.Is(err, broken) {
		t.Error(err)
	}
}

// deepAliases is YAML in which each line has what the line before has a level deeper.
func deepAliases() string {
	var b strings.Builder
	b.WriteString("a0: &a0 [x]\n")
	for i := 1; i < 200; i++ {
		fmt.Fprintf(&b, "a%d: &a%d [*a%d]\n", i, i, i-1)
	}
	return b.String() + "services: {}\n"
}
