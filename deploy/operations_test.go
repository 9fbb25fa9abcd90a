package deploy

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestSymptoms checks that what docs/operations.md says of the lines of doctor is what it
// prints: the steps are those of docs/doctor.md, and the texts are in the program.
func TestSymptoms(t *testing.T) {
	text, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "## Troubleshooting by symptom\n")
	section, _, more := strings.Cut(section, "\n## ")
	if !ok || !more {
		t.Fatal("there is no such section")
	}
	doctor, err := os.ReadFile("../docs/doctor.md")
	if err != nil {
		t.Fatal(err)
	}
	program := sources(t, "../doctor")
	step, quote := regexp.MustCompile("`([a-z-]+)`"), regexp.MustCompile(`"([^"]+)"`)
	rows, texts := 0, 0
	for line := range strings.Lines(section) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| ---") || strings.Contains(line, "line of `doctor`") {
			continue
		}
		rows++
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 4 {
			t.Fatalf("%d cells in %s", len(cells), line)
		}
		for _, m := range step.FindAllStringSubmatch(cells[2], -1) {
			if !bytes.Contains(doctor, []byte("| `"+m[1]+"` |")) && !bytes.Contains(doctor, []byte("`"+m[1]+"`,")) && !bytes.Contains(doctor, []byte("`"+m[1]+"` (")) {
				t.Errorf("%q is no step of doctor", m[1])
			}
		}
		for _, m := range quote.FindAllStringSubmatch(cells[2], -1) {
			texts++
			if !strings.Contains(program, m[1]) {
				t.Errorf("doctor does not print %q", m[1])
			}
		}
	}
	if rows < 25 || texts < 15 {
		t.Errorf("only %d symptoms with %d texts were read", rows, texts)
	}
}

// sources is the text of the Go files below a directory, without tests.
func sources(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		all.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// TestLinks checks that the documents of a deployment link to what is there: files, and
// headings of documents.
func TestLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	links := 0
	for _, file := range []string{
		"compose/README.md", "kubernetes/README.md", "systemd/README.md", "iotedge/README.md",
		"../README.md", "../docs/access.md", "../docs/clients.md", "../docs/design.md", "../docs/operations.md",
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			path, heading, _ := strings.Cut(m[1], "#")
			if strings.Contains(path, "://") {
				continue
			}
			links++
			target := file
			if path != "" {
				target = filepath.Join(filepath.Dir(file), path)
			}
			there, err := os.Stat(target)
			if err != nil {
				t.Errorf("%s links to %s: %v", file, m[1], err)
				continue
			}
			if heading == "" || there.IsDir() {
				continue
			}
			if text, err := os.ReadFile(target); err != nil || !anchors(text)[heading] {
				t.Errorf("%s links to %s, where no such heading is: %v", file, m[1], err)
			}
		}
	}
	if links < 30 {
		t.Errorf("only %d links were looked at", links)
	}
}

// anchors are those of the headings of a document.
func anchors(text []byte) map[string]bool {
	all := map[string]bool{}
	drop := regexp.MustCompile(`[^a-z0-9 -]`)
	for line := range bytes.Lines(text) {
		if heading := strings.TrimLeft(string(line), "#"); heading != string(line) {
			name := drop.ReplaceAllString(strings.ToLower(strings.TrimSpace(heading)), "")
			all[strings.ReplaceAll(name, " ", "-")] = true
		}
	}
	return all
}

// TestFirstDeployment loads the settings that the first deployment is told to begin with.
func TestFirstDeployment(t *testing.T) {
	text, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "## First deployment, step by step\n")
	section, _, _ = strings.Cut(section, "\n## ")
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(` -e ([A-Z0-9_]+)=(\S+)`).FindAllStringSubmatch(section, -1) {
		t.Setenv(m[1], strings.Replace(m[2], "/run/secrets/ours", password, 1))
	}
	if c := load(t, ""); len(c.Remotes) != 2 || c.MaxSize == 0 || c.Remotes[0].URL.Host != "registry.example.com" {
		t.Errorf("the settings give %+v", c)
	}
}
