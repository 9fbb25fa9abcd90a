package source

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"registry-module/seed"
)

// FuzzRead checks that whatever a document is, it gives images that are some, each once
// and with its place, or an error; and that a secret of the environment or of the document
// is in no message.
func FuzzRead(f *testing.F) {
	files, err := filepath.Glob("testdata/*.*")
	if err != nil || len(files) == 0 {
		f.Fatal(files, err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	for _, text := range []string{
		"", "nginx", "- nginx\n", `["nginx"]`, "\xff\xfen\x00", "services: {a: &a {image: b, <<: [*a]}}", "services: {a: {image: '${A:-${B?c}}$$'}}",
		"a: &a [x]\nservices: {b: {<<: *a}}", `{"modulesContent":{"$edgeAgent":{"properties.desired.modules.a.settings.image":"$upstream:8000/a"}}}`,
		"version: 1\nimages: [{image: a, tags: {glob: [a*], newest: 3}}]", "apiVersion: v1\nkind: List\nitems: [{kind: Pod, spec: {containers: [{image: a}]}}]\n---\n",
		"apiVersion: a\nkind: b\nspec: {image: {repository: a, tag: 1.10}}", "${SECRET}/a", "services:\n  a:\n    image: ${SECRET}:1\n    x: [",
		"# a\n//b", "{/**/}", "--- !!a b\n...\n%YAML 1.2\n---\n", "? a\n: b", "BZh", "a\r\nb", "services: {a: {extends: {file: b}, volumes: [{type: image, source: c}]}}",
	} {
		f.Add([]byte(text))
	}
	const secret = "hunter2 from a variable"
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := Read("f", strings.NewReader(string(text)), Options{
			Lookup: func(name string) (string, bool) {
				if name == "SECRET" {
					return secret, true
				}
				return variables(name)
			},
			MaxSize: 1 << 20,
		})
		said := strings.Join(d.Warnings, "\n")
		if err != nil {
			said += err.Error()
			if len(d.Wants) > 0 || d.Kind != "" || len(d.Warnings) > 0 {
				t.Errorf("%v, and %+v", err, d)
			}
		} else if d.Kind == "" || len(d.Wants)+len(d.Warnings) == 0 {
			t.Errorf("neither format nor images nor warnings: %+v", d)
		}
		if strings.Contains(said, secret) || strings.ContainsAny(said, "\x1b\x07\r") {
			t.Errorf("it says %q", said)
		}
		seen := map[string]bool{}
		for _, w := range d.Wants {
			if err := checkImage(w.Image); err != nil || w.From == "" || seen[keyOf(w)] {
				t.Errorf("want %+v: %v", w, err)
			}
			seen[keyOf(w)] = true
			checkWant(t, w)
		}
	})
}

// checkWant checks what is promised of the options of a want.
func checkWant(t *testing.T, w seed.Want) {
	t.Helper()
	if _, tag, dgst := cut(w.Image); w.Tags != nil && (tag != "" || dgst != "" || w.Tags.Newest < 0) {
		t.Errorf("want %+v with %+v", w, *w.Tags)
	}
	for _, p := range w.Platforms {
		if !platform.MatchString(p) {
			t.Errorf("platform %q", p)
		}
	}
}

// FuzzSecret puts a secret where one belongs in each format: whatever stands around it, no
// message has it.
func FuzzSecret(f *testing.F) {
	const secret = "hunter2"
	for _, around := range []string{"", "*", "&", "&a *", "!!int ", "!", "!x!", "{a: ", "[", "@", "`", "%", "- ", ": ", "\"", "'", "| ", "#", "\\x", "\x00", "<<: *", "{{", "${"} {
		f.Add(around, "")
		f.Add(around, "}")
	}
	f.Fuzz(func(t *testing.T, before, after string) {
		if strings.ContainsAny(before+after, "\n\r\u0085\u2028\u2029") || len(before+after) > 100 {
			return
		}
		value := before + secret + after
		for _, text := range []string{
			"services:\n  a:\n    image: A\n    environment:\n      PASSWORD: " + value + "\n",
			"apiVersion: v1\nkind: Secret\nstringData:\n  password: " + value + "\n---\napiVersion: v1\nkind: Pod\nspec: {containers: [{image: A, env: [{name: a, value: b}]}]}\n",
			"{\"modulesContent\": {\"$edgeAgent\": {\"properties.desired\": {\"modules\": {\"a\": {\"settings\": {\"image\": \"A\"}}},\n\"password\": \"" + value + "\"}}}}",
			"password: " + value + "\n",
		} {
			d, err := Read("f", strings.NewReader(text), Options{})
			said := strings.Join(d.Warnings, "\n")
			if err != nil {
				said += err.Error()
			}
			if strings.Contains(said, secret) {
				t.Errorf("%q makes it say %s", text, said)
			}
		}
	})
}
