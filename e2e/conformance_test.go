package e2e

import (
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"registry-module/e2e/lab"
)

// TestConformance runs the suite of the OCI distribution specification, all of it that
// is about pulling and about content discovery: with nothing stored, with all of it
// stored, and with the remote away.
func TestConformance(t *testing.T) {
	t.Parallel()
	const repo = "conformance/ro"
	content := conformanceContent(t, repo)
	up := memory(t, lab.MemoryOptions{}, content...)
	m := module(t, up.Env())
	suite := newSuite(t, m, repo, content)

	suite.run(t, "cold", "")
	up.Reset()
	suite.run(t, "warm", "")
	if got := up.Counts(); got.BlobGET+got.BlobHEAD > 0 {
		t.Errorf("warm: the remote was asked for blobs: %v", got)
	}
	if err := up.Down(); err != nil {
		t.Fatal(err)
	}
	// What else the suite asks for is not known while the remote is away: there is
	// no honest 404 then.
	suite.run(t, "offline", "/read-only")
	for _, img := range content {
		if img.Kind != lab.Artifact {
			continue
		}
		// Of a list, the suite knows only what form it is to have.
		a := get(t, m.URL()+"/v2/"+repo+"/referrers/"+img.Manifests[0].Digest.String())
		if a.Status != http.StatusOK || !digestsIn(a.Body)[img.Root().Digest] {
			t.Errorf("offline: referrers: status %d without %s\n%s", a.Status, img.Root().Digest, a.Body)
		}
	}
	if a := get(t, m.URL()+"/v2/"); a.Status != http.StatusOK {
		t.Errorf("offline: /v2/: status %d, want 200", a.Status)
	}
}

// conformanceContent is what there is in the repository: an image with many tags, an
// index, an artifact with a subject, Docker's forms of them, and a blob under a sha512
// digest.
func conformanceContent(t *testing.T, repo string) []lab.Image {
	t.Helper()
	var all []lab.Image
	for i, kind := range []string{lab.OCIIndex, lab.DockerList, lab.Artifact, "Docker image", "zero-byte blob"} {
		all = append(all, sample(t, kind).In(repo, fmt.Sprint("kind-", i)))
	}
	img := sample(t, "OCI image")
	for i := range 120 { // more than registries have on a page
		all = append(all, img.In(repo, fmt.Sprintf("v%03d", i)))
	}
	layer := lab.BytesBlob([]byte(strings.Repeat("content under a sha512 digest\n", 1000)))
	layer.Digest = digest.SHA512.FromString(strings.Repeat("content under a sha512 digest\n", 1000))
	config := lab.BytesBlob([]byte("{}"))
	manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[{"mediaType":"text/plain","digest":%q,"size":%d}]}`,
		ociManifest, config.Digest, layer.Digest, layer.Size)
	return append(all, lab.Image{
		Kind: "sha512", Repo: repo, Tag: "sha512", Blobs: []lab.RawBlob{config, layer},
		Manifests: []lab.RawManifest{{MediaType: ociManifest, Digest: digest.FromBytes(manifest), Bytes: manifest}},
	})
}

// suite is the conformance suite with its settings.
type suite struct {
	path string
	env  lab.Env
	// tests has how many tests of each name have to pass, by the name's end.
	tests map[string]int
	// apis are the parts of the API that have to.
	apis []string
}

// newSuite prepares it for content in a repository of a module.
func newSuite(t *testing.T, m *lab.Server, repo string, content []lab.Image) suite {
	t.Helper()
	tags, manifests, blobs := map[string]bool{}, map[string]bool{}, map[string]bool{}
	subjects := map[string]bool{digest.FromString("nothing refers to it").String(): true}
	for _, img := range content {
		if img.Kind == lab.Artifact {
			subjects[img.Manifests[0].Digest.String()] = true
		}
		tags[img.Tag] = true
		for _, raw := range img.Manifests {
			manifests[raw.Digest.String()] = true
		}
		for _, b := range img.Blobs {
			blobs[b.Digest.String()] = true
		}
	}
	list := func(set map[string]bool) string { return strings.Join(slices.Sorted(maps.Keys(set)), " ") }
	return suite{
		path: must(lab.Conformance().Install(t.Context()))(t),
		env: lab.Env{
			"OCI_VERSION": "1.1", "OCI_REGISTRY": m.Addr, "OCI_TLS": "disabled", "OCI_REPO1": repo,
			"OCI_API_PUSH": "false", "OCI_API_TAGS_DELETE": "false",
			"OCI_API_BLOBS_DELETE": "false", "OCI_API_BLOBS_ATOMIC": "false", "OCI_API_BLOBS_DIGEST_HEADER": "true",
			// The suite misses the Docker-Content-Digest of each manifest whose bytes it
			// does not know, so that it cannot be made to insist on it.
			"OCI_API_MANIFESTS_DELETE": "false", "OCI_API_MANIFESTS_ATOMIC": "false",
			"OCI_RO_DATA_REFERRERS": list(subjects),
			"OCI_RO_DATA_TAGS":      list(tags),
			"OCI_RO_DATA_BLOBS":     list(blobs), "OCI_RO_DATA_MANIFESTS": list(manifests),
		},
		tests: map[string]int{
			"/ping": 1, "/empty/tag list": 1, "/empty/referrers": 1, "/missing-manifest/by-digest": 1, "/missing-manifest/by-tag": 1,
			"/invalid-digest-format/manifest-get": 1,
			"/read-only/tag-list":                 1, "/read-only/referrers": 1,
			"/read-only/head/manifest-head-by-tag":    len(tags),
			"/read-only/head/manifest-head-by-digest": len(manifests),
			"/read-only/head/blob-head":               len(blobs),
			"/read-only/pull/manifest-by-tag":         len(tags),
			"/read-only/pull/manifest-by-digest":      len(manifests),
			"/read-only/pull/blob-get":                len(blobs),
		},
		apis: []string{"Ping", "Tag listing", "Blob get", "Blob head", "Manifest get by digest", "Manifest get by tag",
			"Manifest head by digest", "Manifest head by tag", "Referrers"},
	}
}

// What the suite prints of each test, and of each part of the API.
var (
	outcome    = regexp.MustCompile(`(?m)^ *OCI Conformance Test(/.*): (Pass|Skip|Disabled|FAIL|Error|Unknown)$`)
	apiOutcome = regexp.MustCompile(`(?m)^  ([A-Z][A-Za-z ]*)\.+: +(Pass|Skip|Disabled|FAIL|Error|Unknown)$`)
)

// run runs the tests of the suite whose names begin with part, all of them where that
// is empty, and looks into its report: for the suite, what is switched off or skipped
// is no failure. That is the one on its standard output: of this version, the others
// are not written where pushes are switched off, and it panics over them.
func (s suite) run(t *testing.T, state, part string) {
	t.Helper()
	dir := tempDir(t)
	env := merge(s.env, lab.Env{"OCI_RESULTS_DIR": dir})
	if part != "" {
		env["OCI_FILTER_TEST"] = "OCI Conformance Test" + part
	}
	report, err := lab.Run(t.Context(), dir, env, s.path)
	if !strings.Contains(report, "\nOCI Conformance Result: Pass\n") {
		t.Errorf("%s: %v\n%s", state, err, report)
	}
	passed := map[string]int{}
	for _, m := range outcome.FindAllStringSubmatch(report, -1) {
		if m[2] == "Pass" {
			passed[m[1]]++
		}
	}
	for name, want := range s.tests {
		if strings.HasPrefix(name, part) && passed[name] != want {
			t.Errorf("%s: %d of %q have passed, want %d", state, passed[name], name, want)
		}
	}
	apis := map[string]string{}
	for _, m := range apiOutcome.FindAllStringSubmatch(report, -1) {
		apis[m[1]] = m[2]
	}
	for _, name := range s.apis {
		if apis[name] != "Pass" && (part == "" || name != "Ping") {
			t.Errorf("%s: %s: %q, want a pass", state, name, apis[name])
		}
	}
	t.Logf("%s: passed %v", state, passed)
}
