package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"registry-module/config"
	"registry-module/iotedge/deployment"
	"registry-module/seed/source"
)

// samples are where the files are that deploy/iotedge/generate.sh makes.
const samples = "../../deploy/iotedge"

// commandsOf returns the calls of registry-module in generate.sh, as words.
func commandsOf(t *testing.T) (calls [][]string) {
	t.Helper()
	script, err := os.ReadFile(filepath.Join(samples, "generate.sh"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(strings.ReplaceAll(string(script), "\\\n", " ")) {
		if args, ok := strings.CutPrefix(line, "registry-module "); ok {
			calls = append(calls, strings.Fields(args))
		}
	}
	return calls
}

// TestDeploySamples makes the samples anew and compares them with those that are there.
// deploy/iotedge/generate.sh writes them.
func TestDeploySamples(t *testing.T) {
	dir := t.TempDir()
	for _, args := range commandsOf(t) {
		last := args[len(args)-1]
		file, toFile := strings.CutPrefix(last, ">")
		if toFile {
			args = args[:len(args)-1]
		} else if i := slices.Index(args, "--output"); i >= 0 {
			args[i+1] = filepath.Join(dir, args[i+1])
		}
		out, _, err := command(t, args...)
		if err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		if toFile {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(out), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	made, there := filesBelow(t, dir), filesBelow(t, samples)
	for _, by := range []string{"README.md", "generate.sh", "policy.yml"} {
		delete(there, by) // are written by people
	}
	if len(made) != 15 || len(made) != len(there) {
		t.Errorf("%d files were made, and %d are there", len(made), len(there))
	}
	for name, content := range made {
		if !bytes.Equal(content, there[name]) {
			t.Errorf("%s/%s is another one now: run generate.sh", samples, name)
		}
	}
}

// filesBelow returns the files below a directory.
func filesBelow(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		files[name], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestDeployedManifests reads the samples as others do: by the rules of Azure, by what
// seeding finds in them, and by what registry-module takes as its settings.
func TestDeployedManifests(t *testing.T) {
	manifests, err := filepath.Glob(samples + "/*/*.json")
	if err != nil || len(manifests) != 6 {
		t.Fatalf("%v, %v", manifests, err)
	}
	for _, path := range manifests {
		t.Run(strings.TrimPrefix(path, samples+"/"), func(t *testing.T) {
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if problems := deployment.Validate(content); len(problems) > 0 {
				t.Error(problems)
			}
			doc, err := source.Read(path, bytes.NewReader(content), source.Options{})
			if err != nil || len(doc.Warnings) > 0 {
				t.Fatalf("%v, %q", err, doc.Warnings)
			}
			env, images := readModules(t, content)
			if len(doc.Wants) == 0 || len(doc.Wants) != len(images) {
				t.Errorf("seeding finds %d images, of %q", len(doc.Wants), images)
			}
			if len(env) > 0 {
				checkSettings(t, env)
			}
		})
	}
}

// readModules returns the variables of registry-module in a manifest, and all images, once
// each.
func readModules(t *testing.T, content []byte) (env map[string]string, images []string) {
	t.Helper()
	var manifest map[string]any
	if err := json.Unmarshal(content, &manifest); err != nil {
		t.Fatal(err)
	}
	env = map[string]string{}
	var walk func(v any)
	walk = func(v any) {
		m, _ := v.(map[string]any)
		for key, value := range m {
			if image, ok := value.(string); ok && key == "image" && !slices.Contains(images, image) {
				images = append(images, image)
			}
			if one, ok := value.(map[string]any); ok && strings.HasPrefix(key, "REGISTRY_") {
				env[key] = fmt.Sprint(one["value"])
			}
			walk(value)
		}
	}
	walk(manifest)
	return env, images
}

// checkSettings loads variables, with files and passwords in their places.
func checkSettings(t *testing.T, env map[string]string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("IOTEDGE_PARENTHOSTNAME", "parent.example") // as the runtime does
	t.Setenv("IOTEDGE_WORKLOADURI", "unix:///var/run/iotedge/workload.sock")
	for name, value := range env {
		switch {
		case strings.HasPrefix(value, "${"):
			value = "secret"
		case strings.HasPrefix(value, "/"):
			value = file
		}
		t.Setenv(name, value)
	}
	c, err := config.Load("")
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Warnings) > 0 || len(c.Remotes) == 0 || c.MaxSize == 0 {
		t.Errorf("remotes %v, limit %d, warnings %q", c.Remotes, c.MaxSize, c.Warnings)
	}
}

func TestDeployCheck(t *testing.T) {
	good := samples + "/bottom/deployment.json"
	out, _, err := command(t, "deploy", "check", good)
	if err != nil || out != good+": nothing is wrong\n  to be filled in: UPSTREAM_PASSWORD, UPSTREAM_USERNAME\n" {
		t.Errorf("%v\n%s", err, out)
	}
	content, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(t.TempDir(), "bad.json")
	if err := os.WriteFile(bad, bytes.Replace(content, []byte(`"running"`), []byte(`"runing"`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	out, _, err = command(t, "deploy", "check", bad, good)
	if err == nil || err.Error() != "1 manifest of 2 would be refused" || !strings.Contains(out, ": 1 problem:\n  $edgeAgent.modules.SimulatedTemperatureSensor.status: is none of") {
		t.Errorf("%v\n%s", err, out)
	}
	out, _, err = command(t, "deploy", "check", "-o", "json", bad)
	var found []checked
	if err == nil || json.Unmarshal([]byte(out), &found) != nil || len(found) != 1 || len(found[0].Problems) != 1 || len(found[0].Placeholders) != 2 {
		t.Errorf("%v\n%s", err, out)
	}
	if _, _, err = command(t, "deploy", "check", "/absent"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	root := rootCommand()
	var piped bytes.Buffer
	root.SetIn(bytes.NewReader(content))
	root.SetOut(&piped)
	root.SetArgs([]string{"deploy", "check", "-"})
	if err := root.ExecuteContext(t.Context()); err != nil || !strings.HasPrefix(piped.String(), "-: nothing is wrong") {
		t.Errorf("%v\n%s", err, &piped)
	}
}
