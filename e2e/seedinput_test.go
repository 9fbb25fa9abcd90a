package e2e

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"registry-module/e2e/lab"
)

// What a command may take for something that it refuses.
const (
	refusalMemory = 320 * mib
	refusalTime   = 40 * time.Second
)

// stocked is a directory in which an image is stored, beside which broken files are laid.
// Its remote has nothing else.
func stocked(t *testing.T, settings ...lab.Env) (*depot, *lab.Origin, lab.Image) {
	t.Helper()
	img := noise(t, "input/kept", 40<<10)
	up := origin(t, lab.OriginOptions{}, img)
	d := newDepot(t, up, settings...)
	d.good(t, append([]string{"seed"}, atRemote(img)...)...)
	return d, up, img
}

// refusal runs a command that has to say what is wrong, in bounds, and change nothing.
func (d *depot) refusal(t *testing.T, stdin io.Reader, says []string, args ...string) {
	t.Helper()
	before := d.content(t)
	o := d.runWith(t, stdin, args...)
	t.Logf("%v after %v, %.1f MiB: %.400s", o.Status, o.Took.Round(time.Millisecond), float64(o.PeakRSS)/mib, o.Stderr)
	if o.Status != 1 && o.Status != 2 {
		t.Errorf("%v: status %d, want 1 or 2\n%.1000s\n%.1000s", args, o.Status, o.Stdout, o.Stderr)
	}
	for _, word := range says {
		if !strings.Contains(o.Stderr, word) {
			t.Errorf("%v: the error does not have %q\n%.1000s", args, word, o.Stderr)
		}
	}
	if len(o.Stderr) == 0 || len(o.Stderr) > 64<<10 {
		t.Errorf("%v: the error has %d bytes", args, len(o.Stderr))
	}
	if i := strings.IndexFunc(o.Stderr, func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' && r != '\r' || r == '\u202e' }); i >= 0 {
		t.Errorf("%v: the error has characters that move the cursor: %.300q", args, o.Stderr[max(0, i-100):])
	}
	if o.PeakRSS > refusalMemory || o.Took > refusalTime {
		t.Errorf("%v: it took %.1f MiB and %v, want %d MiB and %v at most", args, float64(o.PeakRSS)/mib, o.Took, refusalMemory/mib, refusalTime)
	}
	d.unchanged(t, before)
}

// aliasBomb is a document that stands for 10^9 values, in a list called so.
func aliasBomb(list string) string {
	var b strings.Builder
	b.WriteString("version: 1\nx0: &a0 [registry.example.test/library/alpine, registry.example.test/library/alpine]\n")
	for i := range 9 {
		fmt.Fprintf(&b, "x%d: &a%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i), 10), ", "))
	}
	fmt.Fprintf(&b, "%s: *a9\n", list)
	return b.String()
}

// random is content that is nothing.
func random(n int) []byte {
	b := make([]byte, n)
	source := rand.New(rand.NewPCG(7, uint64(n)))
	for i := range b {
		b[i] = byte(source.Uint32())
	}
	return b
}

// TestSeedInputs gives to seed what names no images, or is meant to harm. The command says
// what is wrong, takes little for it, and asks nobody.
func TestSeedInputs(t *testing.T) {
	t.Parallel()
	deployment := func(image string) string {
		return `{"modulesContent":{"$edgeAgent":{"properties.desired":{"schemaVersion":"1.1","runtime":{"type":"docker","settings":{}},` +
			`"systemModules":{"edgeAgent":{"type":"docker","settings":{"image":` + image + `}}},"modules":{}}}}}`
	}
	const seedFile = "version: 1\nimages:\n  - "
	inputs := map[string]struct {
		content string
		says    []string
	}{
		"nothing":              {"", nil},
		"comments only":        {"# a list\n\n  # of nothing\n", nil},
		"10 MB of comments":    {strings.Repeat("# nothing\n", 1e6), nil},
		"random bytes":         {string(random(64 << 10)), nil},
		"zeros":                {strings.Repeat("\x00", 1<<20), nil},
		"a program":            {"\x7fELF\x02\x01\x01" + string(random(4<<10)), nil},
		"no UTF-8":             {"registry.example.test/library/alp\xffine\n", nil},
		"broken YAML":          {"version: 1\nimages: [registry.example.test/library/alpine\n", nil},
		"YAML with tabs":       {"version: 1\nimages:\n\t- registry.example.test/library/alpine\n", nil},
		"broken JSON":          {`{"modulesContent": {"$edgeAgent": {`, nil},
		"JSON and more":        {deployment(`"registry.example.test/library/alpine"`) + "}}", nil},
		"JSON, deep":           {strings.Repeat(`{"a":`, 1e6), nil},
		"JSON lists, deep":     {strings.Repeat("[", 5e6), nil},
		"YAML lists, deep":     {"version: 1\nimages: " + strings.Repeat("[", 1e6), nil},
		"YAML maps, deep":      {"version: 1\nimages: " + strings.Repeat("{a: ", 1e5), nil},
		"YAML bullets, deep":   {"version: 1\nimages:\n  " + strings.Repeat("- ", 1e6) + "x\n", nil},
		"aliases of aliases":   {aliasBomb("images"), nil},
		"aliases, compose":     {strings.Replace(aliasBomb("services"), "version: 1\n", "", 1), nil},
		"cycle of aliases":     {"version: 1\nimages: &a\n  - *a\n", nil},
		"merge of itself":      {"version: 1\nimages:\n  - &a\n    <<: *a\n    image: x\n", nil},
		"unknown alias":        {"version: 1\nimages: *nothing\n", nil},
		"another version":      {"version: 99\nimages: [registry.example.test/library/alpine]\n", []string{"version"}},
		"absurd newest":        {seedFile + "{image: registry.example.test/library/alpine, tags: {newest: 99999999999999999999999}}\n", nil},
		"newest below 0":       {seedFile + "{image: registry.example.test/library/alpine, tags: {newest: -1}}\n", nil},
		"expression":           {seedFile + "{image: registry.example.test/library/alpine, tags: {regexp: '(('}}\n", []string{"(("}},
		"expression, large":    {seedFile + "{image: registry.example.test/library/alpine, tags: {regexp: '((a{1000}){1000}){1000}'}}\n", nil},
		"range of versions":    {seedFile + "{image: registry.example.test/library/alpine, tags: {semver: '>=one <'}}\n", nil},
		"schedule":             {"version: 1\nschedule: every now and then\nimages: [registry.example.test/library/alpine]\n", []string{"every now and then"}},
		"schedule that is not": {"version: 1\nschedule: '0 0 31 2 99'\nimages: [registry.example.test/library/alpine]\n", nil},
		"unknown key":          {"version: 1\nimages: [registry.example.test/library/alpine]\nimagse: []\n", []string{"imagse"}},
		"images are a number":  {"version: 1\nimages: 1e309\n", nil},
		"platform":             {"version: 1\nplatforms: ['../..']\nimages: [registry.example.test/library/alpine]\n", nil},
		"traversal":            {"../../../etc/passwd\n", nil},
		"traversal, host":      {"registry.example.test/../../etc/passwd\n", nil},
		"upper case":           {"registry.example.test/Library/ALPINE:1\n", nil},
		"bad digest":           {"registry.example.test/library/alpine@sha256:abc\n", nil},
		"name of 100 kB":       {"registry.example.test/" + strings.Repeat("a", 100e3) + ":1\n", nil},
		"cursor":               {"registry.example.test/library/\x1b[2J\x1b[31malpine\n", nil},
		"right to left":        {"registry.example.test/library/\u202ealpine\n", nil},
		"10 MB of nonsense":    {strings.Repeat("this is not an image\n", 5e5), nil},
		"10 MB in a line":      {strings.Repeat("a", 10e6), nil},
		"10 MB of images":      {manyImages(10e6), nil},
		"11 MiB of images":     {manyImages(11 << 20), nil},
		"placeholder":          {deployment(`"${NOBODY_SETS_THIS}"`), []string{"NOBODY_SETS_THIS"}},
		"placeholder in one":   {deployment(`"${A${B}}"`), nil},
		"an image of no text":  {deployment(`["registry.example.test/library/alpine"]`), nil},
		"gzip":                 {gzipped(t, []byte("registry.example.test/library/alpine\n")), nil},
	}
	d, up, img := stocked(t)
	up.Reset()
	n := 0
	for name, tt := range inputs {
		n++
		file := d.write(t, fmt.Sprintf("input%d", n), []byte(tt.content))
		t.Run(name, func(t *testing.T) {
			d.refusal(t, nil, append(tt.says, filepath.Base(file)), "seed", "-f", file)
			d.refusal(t, strings.NewReader(tt.content), tt.says, "seed", "-f", "-", "--dry-run")
		})
	}
	for what, args := range map[string][]string{
		"no image at all":    {"seed"},
		"a file that is not": {"seed", "-f", "nowhere.yml"},
		"a directory":        {"seed", "-f", d.dir},
		"an endless file":    {"seed", "-f", "/dev/zero"},
		"a bad image":        {"seed", "registry.example.test/library/UPPER"},
		"a bad platform":     {"seed", "registry.example.test/library/alpine", "--platform", "linux"},
		"a bundle of nobody": {"bundle", "create", "out.tar"},
		"a have of nothing":  {"bundle", "create", "out.tar", "registry.example.test/library/alpine", "--have", "nowhere"},
		"a key of nothing":   {"bundle", "create", "out.tar", "registry.example.test/library/alpine", "--sign-key", "nowhere"},
		"a chunk of nothing": {"bundle", "create", "out.tar", "registry.example.test/library/alpine", "--chunk-size", "-1"},
		"an endless chunk":   {"bundle", "create", "out.tar", "registry.example.test/library/alpine", "--chunk-size", "99999999999999999999GiB"},
	} {
		t.Run(what, func(t *testing.T) { d.refusal(t, nil, nil, args...) })
	}
	t.Run("have", func(t *testing.T) {
		for what, content := range map[string]string{
			"nothing": "", "random": string(random(4 << 10)), "version": `{"version":7,"contents":[]}`, "deep": strings.Repeat(`[`, 1e6),
			"cut": `{"version":1,"contents":[{"digest":"sha256:`,
		} {
			t.Run(what, func(t *testing.T) {
				file := d.write(t, "have-"+strings.ReplaceAll(what, " ", "-"), []byte(content))
				d.refusal(t, nil, []string{filepath.Base(file)}, "bundle", "create", "out.tar", "registry.example.test/library/alpine", "--have", file)
			})
		}
	})
	t.Run("contents of a have that are none", func(t *testing.T) {
		// They are left aside: what they may mean is carried again.
		odd := d.write(t, "odd.have", []byte(`{"version":1,"contents":[{"digest":"../../x","size":1},{"digest":7},{"size":1e99},{"digest":"`+
			img.Blobs[0].Digest.String()+`","size":-1}]}`))
		d.good(t, append([]string{"bundle", "create", "odd.tar", "--have", odd}, atRemote(img)...)...)
		if n := len(must(os.ReadFile(d.file("odd.tar")))(t)); int64(n) < img.Size() {
			t.Errorf("the bundle has %d bytes, less than its layers", n)
		}
	})
	if got := up.Counts(); got.BlobGET > 0 {
		t.Errorf("upstream was asked for blobs: %v", up)
	}
	if _, err := os.Stat(d.file("out.tar")); err == nil {
		t.Error("a bundle was made all the same")
	}
}

// manyImages is a list of so many bytes.
func manyImages(size int) string {
	var b strings.Builder
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, "%s/none/%d:1\n", remoteHost, i)
	}
	return b.String()
}

// TestSeedPipes gives pipes to commands where they take files: to open one to which nobody
// writes would never end. What comes by a pipe goes to standard input.
func TestSeedPipes(t *testing.T) {
	t.Parallel()
	d, _, img := stocked(t)
	if err := syscall.Mkfifo(d.file("pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.write(t, "images", []byte(atRemote(img)[0]+"\n"))
	for what, args := range map[string][]string{
		"seed":    {"seed", "-f", "pipe"},
		"load":    {"bundle", "load", "pipe"},
		"inspect": {"bundle", "inspect", "pipe"},
		"have":    {"bundle", "create", "out.tar", "-f", "images", "--have", "pipe"},
		"key":     {"bundle", "create", "out.tar", "-f", "images", "--sign-key", "pipe"},
		"trust":   {"bundle", "load", "images", "--trust-key", "pipe"},
	} {
		t.Run(what, func(t *testing.T) { d.refusal(t, nil, []string{"pipe"}, args...) })
	}
	if o := d.runWith(t, strings.NewReader(atRemote(img)[0]+"\n"), "seed", "-f", "-"); o.Status != 0 {
		t.Errorf("from standard input: %v", o)
	}
}

// TestSeedEndpoint sends to the admin address what is no job, and what nobody may send.
func TestSeedEndpoint(t *testing.T) {
	t.Parallel()
	img := noise(t, "endpoint/image", 40<<10)
	up := origin(t, lab.OriginOptions{}, img)
	token := filepath.Join(tempDir(t), "token")
	const secret = "correct-horse-battery-staple-correct-horse"
	if err := os.WriteFile(token, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := newDepot(t, up, lab.Env{"REGISTRY_SEED_TOKENFILE": token})
	m := d.serve(t)
	url := "http://" + m.Admin + "/seed"
	good := `{"wants":[{"image":"` + atRemote(img)[0] + `"}]}`
	for name, tt := range map[string]struct {
		method, authorization, body string
		most                        int // status, and least is 400
	}{
		"nobody":              {http.MethodPost, "", good, 401},
		"another token":       {http.MethodPost, "Bearer wrong", good, 403},
		"half of the token":   {http.MethodPost, "Bearer correct-horse", good, 403},
		"password":            {http.MethodPost, "Basic Y29ycmVjdA==", good, 401},
		"GET":                 {http.MethodGet, "Bearer " + secret, "", 405},
		"nothing":             {http.MethodPost, "Bearer " + secret, "", 422},
		"broken JSON":         {http.MethodPost, "Bearer " + secret, `{"wants":[`, 422},
		"deep JSON":           {http.MethodPost, "Bearer " + secret, strings.Repeat("[", 1e6), 422},
		"200 MB":              {http.MethodPost, "Bearer " + secret, `{"wants":[{"image":"` + strings.Repeat("a", 200e6), 422},
		"a million images":    {http.MethodPost, "Bearer " + secret, `{"wants":[` + strings.Repeat(`{"image":"a/b:1"},`, 1e6) + `{}]}`, 422},
		"another media type?": {http.MethodPost, "Bearer " + secret, "version: 1\nimages: [a]", 422},
	} {
		t.Run(name, func(t *testing.T) {
			req := must(http.NewRequestWithContext(t.Context(), tt.method, url, strings.NewReader(tt.body)))(t)
			if tt.authorization != "" {
				req.Header.Set("Authorization", tt.authorization)
			}
			resp, err := client().Do(req)
			if err != nil {
				t.Logf("the server has closed the connection: %v", err)
				return // while more was sent than it takes
			}
			defer resp.Body.Close()
			if a := read(resp); a.Status < 400 || a.Status > tt.most || bytes.Contains(a.Body, []byte(secret)) {
				t.Errorf("status %d, want 400 to %d\n%.300s", a.Status, tt.most, a.Body)
			}
		})
	}
	if got := up.Counts(); got.Requests > got.Pings {
		t.Errorf("upstream was asked: %v", up)
	}
	if u := must(m.Usage())(t); u.PeakRSS > refusalMemory {
		t.Errorf("the server took %.1f MiB", float64(u.PeakRSS)/mib)
	}
	if strings.Contains(m.Tail(1000), secret) {
		t.Error("the token is in the log")
	}
}
