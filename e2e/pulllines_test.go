package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"registry-module/e2e/lab"
)

// pullLine is the line of a pull in the log, in the form json.
type pullLine struct {
	Msg, Image, Digest, Client, Agent, Source   string
	Bytes, FromCache, Fetched, Requests, Errors int64
}

// logLines are the lines of a log in the form json that are so.
func logLines(t *testing.T, m *lab.Server, so func(l pullLine) bool) (all []pullLine) {
	t.Helper()
	text := string(must(os.ReadFile(m.Log()))(t))
	for line := range strings.Lines(text) {
		var l pullLine
		if !strings.HasSuffix(line, "\n") {
			continue // it is being written
		}
		if err := json.Unmarshal([]byte(strings.ReplaceAll(line, "from_cache", "fromcache")), &l); err != nil {
			t.Errorf("%v: %s", err, line)
		} else if so(l) {
			all = append(all, l)
		}
	}
	return all
}

// TestPullLines pulls by each client, cold and warm, with the lines of requests switched off:
// there is one line for each pull, and it has the image, the client, the bytes, and where
// they came from.
func TestPullLines(t *testing.T) {
	t.Parallel()
	type pulling struct {
		agent  string // what the client calls itself
		pull   func(ref string) error
		forget func(ref string) error
	}
	d := must(lab.StartDocker(t.Context(), tempDir(t)))(t)
	end(t, d)
	podman := must(lab.NewPodman(tempDir(t)))(t)
	skopeo := must(lab.NewSkopeo(tempDir(t)))(t)
	crane := lab.NewClient(tempDir(t), bin.crane)
	dir := tempDir(t)
	keepsNothing := func(string) error { return nil }
	clients := map[string]pulling{
		"docker": {"docker/",
			func(ref string) error { _, err := d.CLI(t.Context(), "pull", ref); return err },
			func(ref string) error { _, err := d.CLI(t.Context(), "rmi", ref); return err }},
		"podman": {"containers/",
			func(ref string) error { _, err := podman.Pull(t.Context(), ref, ""); return err },
			func(ref string) error { _, err := podman.CLI(t.Context(), "rmi", ref); return err }},
		"skopeo": {"skopeo/",
			func(ref string) error {
				_, err := skopeo.CLI(t.Context(), "copy", "--src-tls-verify=false", "docker://"+ref, "dir:"+must(os.MkdirTemp(dir, "skopeo"))(t))
				return err
			}, keepsNothing},
		"crane": {"crane/",
			func(ref string) error {
				_, err := crane.CLI(t.Context(), "pull", ref, filepath.Join(must(os.MkdirTemp(dir, "crane"))(t), "image.tar"))
				return err
			}, keepsNothing},
	}
	images := map[string]lab.Image{}
	up := origin(t, lab.OriginOptions{})
	for name := range clients {
		images[name] = noise(t, "lines/"+name, mib, 1000)
		up.Add(images[name])
	}
	m := module(t, up.Env(), lab.Env{"REGISTRY_LOG_FORMATTER": "json", "REGISTRY_LOG_ACCESSLOG_SAMPLE": "0"})

	for _, source := range []string{"remote", "cache"} {
		var wg sync.WaitGroup
		for name, c := range clients {
			wg.Go(func() {
				ref := images[name].ByTag(m.Addr)
				if err := c.pull(ref); err != nil {
					t.Errorf("%s: %v", name, err)
				} else if err := c.forget(ref); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
		wg.Wait()
		of := func(name string) []pullLine {
			return logLines(t, m, func(l pullLine) bool {
				return strings.HasPrefix(l.Image, images[name].Repo) && l.Source == source
			})
		}
		for name, c := range clients {
			eventually(t, name+" has its line, from "+source, func() bool { return len(of(name)) > 0 })
			img := images[name]
			l := of(name)[0]
			t.Logf("%+v", l)
			if l.Msg != "pulled" || l.Image != img.Repo+":"+img.Tag || l.Digest != img.Root().Digest.String() || l.Client != "127.0.0.1" || !strings.Contains(l.Agent, c.agent) {
				t.Errorf("%s: %+v", name, l)
			}
			// Some ask for the manifest twice.
			size, manifest := img.Size(), int64(len(img.Root().Bytes))
			if l.Bytes < size+manifest || l.Bytes > size+3*manifest || l.Bytes != l.FromCache+l.Fetched {
				t.Errorf("%s: %+v, want %d bytes of blobs and of a manifest of %d", name, l, size, manifest)
			}
			if source == "remote" && l.Fetched < size || source == "cache" && l.Fetched > 0 {
				t.Errorf("%s, from %s: %+v", name, source, l)
			}
		}
	}
	stop(t, m) // which has all lines written that are to come
	for name := range clients {
		if all := logLines(t, m, func(l pullLine) bool { return strings.HasPrefix(l.Image, images[name].Repo) }); len(all) != 2 {
			t.Errorf("%s has pulled twice, and has %d lines: %+v", name, len(all), all)
		}
	}
	if all := logLines(t, m, func(l pullLine) bool { return l.Msg == "request" }); len(all) > 0 {
		t.Errorf("requests are switched off, and have %d lines: %+v", len(all), all)
	}
}

// edgeLine is a line as the IoT Edge runtime reads it.
var edgeLine = regexp.MustCompile(`^<([0-7])> (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} [+-]\d\d:\d\d) \[([A-Z]+)\] - (.*)$`)

// TestLogForms has each form of the log read by what it is made for.
func TestLogForms(t *testing.T) {
	t.Parallel()
	img := noise(t, "lines/forms", 1000)
	up := origin(t, lab.OriginOptions{}, img)
	for form, parse := range map[string]func(line string) (msg string, err error){
		"text": func(line string) (string, error) {
			for _, field := range []string{"time=", "level="} {
				if !strings.Contains(line, field) {
					return "", fmt.Errorf("no %s", field)
				}
			}
			_, msg, _ := strings.Cut(line, "msg=")
			return strings.TrimPrefix(msg, `"`), nil
		},
		"json": func(line string) (string, error) {
			var l struct{ Msg, Level, Time string }
			err := json.Unmarshal([]byte(line), &l)
			if err == nil && (l.Level == "" || l.Time == "") {
				err = fmt.Errorf("no time or level")
			}
			return l.Msg, err
		},
		"iotedge": func(line string) (string, error) {
			fields := edgeLine.FindStringSubmatch(line)
			if fields == nil {
				return "", fmt.Errorf("it has another form")
			}
			return fields[4], nil
		},
	} {
		m := module(t, up.Env(), lab.Env{"REGISTRY_LOG_FORMATTER": form})
		if err := pull(t.Context(), m, img); err != nil {
			t.Fatal(err)
		}
		stop(t, m)
		var said []string
		for line := range strings.Lines(string(must(os.ReadFile(m.Log()))(t))) {
			msg, err := parse(strings.TrimSuffix(line, "\n"))
			if err != nil {
				t.Errorf("%s: %v: %s", form, err, line)
			}
			if strings.HasPrefix(msg, "pulled") {
				for _, part := range []string{img.Repo + ":" + img.Tag, img.Root().Digest.String(), "127.0.0.1", "remote"} {
					if !strings.Contains(line, part) {
						t.Errorf("%s: no %s: %s", form, part, line)
					}
				}
			}
			said = append(said, msg)
		}
		for _, what := range []string{"listening on", "request", "pulled"} {
			if !slices.ContainsFunc(said, func(msg string) bool { return strings.HasPrefix(msg, what) }) {
				t.Errorf("%s: nothing says %q:\n%s", form, what, strings.Join(said, "\n"))
			}
		}
	}
}
