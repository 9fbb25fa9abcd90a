package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"registry-module/e2e/lab"
)

// TestExtraFiles puts files into a data directory that do not belong there, as restored
// backups, file managers and other programs do. All that was stored is served without
// upstream, with the index and when it has to be built, and all is right with upstream.
func TestExtraFiles(t *testing.T) {
	t.Parallel()
	d := newDamaged(t)
	large := d.shelf[1]
	unknown := digest.FromString("unknown")
	blob := func(dgst digest.Digest) string {
		return filepath.Join("docker/registry/v2/blobs/sha256", dgst.Encoded()[:2], dgst.Encoded(), "data")
	}
	const repos = "docker/registry/v2/repositories"
	extra := map[string]string{ // by path; a directory where there is a slash at the end
		"foreign.txt":                         "foreign",
		"lost+found/":                         "",
		".hidden/file":                        "foreign",
		blob(unknown):                         "not what its name says",
		blob(digest.FromString("empty")):      "",
		blob(digest.FromString("dir")) + "/":  "",
		blob(unknown) + ".orig":               "foreign",
		"docker/registry/v2/blobs/file":       "foreign",
		"docker/registry/v2/blobs/md5/x/data": "foreign",
		"docker/registry/v2/blobs/sha256/zz/not-a-digest/data":                   "foreign",
		"docker/registry/v2/blobs/sha256/00/" + unknown.Encoded() + "/data":      "in the wrong place",
		repos + "/UPPER case/_manifests/tags/1.0/current/link":                   unknown.String(),
		repos + "/damage/multi/_manifests/tags/garbage/current/link":             "garbage",
		repos + "/damage/multi/_manifests/tags/unknown/current/link":             unknown.String(),
		repos + "/damage/multi/_manifests/tags/.DS_Store":                        "foreign",
		repos + "/damage/multi/_uploads/0/startedat":                             "2026-01-31T12:00:00Z",
		repos + "/damage/multi/_uploads/0/data":                                  "half of it",
		repos + "/damage/multi/_layers/sha256/" + unknown.Encoded() + "/link":    unknown.String(),
		repos + "/damage/multi/_manifests/revisions/sha256/" + unknown.Encoded(): "a file, not a directory",
		repos + "/damage/none/_layers/":                                          "",
		"partial/foreign":                                                        "foreign",
		"partial/directory/":                                                     "",
		"partial/sha256-" + unknown.Encoded():                                    "no journal",
		"partial/sha256-" + digest.FromString("journal").Encoded() + ".journal":  "no bytes",
		"index/foreign":    "foreign",
		"index/000099.sst": "no table",
		repos + "/damage/large/_manifests/tags/1.0/index/sha256/" + unknown.Encoded(): "as the stock registry has them, but for the directory",
		"scheduler-state.json": "not JSON",
	}
	for name, spoil := range map[string]func(data string) error{
		"with the index":    func(string) error { return nil },
		"without the index": func(data string) error { return os.RemoveAll(filepath.Join(data, "index")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := d.directory(t)
			data := filepath.Join(dir, "data")
			if _, err := lab.Run(t.Context(), dir, nil, "cp", "-a", d.data, data); err != nil {
				t.Fatal(err)
			}
			for file, content := range extra {
				full := filepath.Join(data, file)
				err := os.MkdirAll(filepath.Dir(full), 0o755)
				if strings.HasSuffix(file, "/") {
					err = os.MkdirAll(full, 0o755)
				} else if err == nil {
					err = os.WriteFile(full, []byte(content), 0o644)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(os.Symlink(".", filepath.Join(data, "docker/registry/v2/blobs/sha256/loop")), os.Symlink("..", filepath.Join(data, repos, "loop")), spoil(data)); err != nil {
				t.Fatal(err)
			}
			// They are the user's, as after the chown that the documents tell to do.
			if _, err := lab.Run(t.Context(), dir, nil, "chown", "-R", "65532:65532", data); err != nil {
				t.Fatal(err)
			}

			up := must(lab.StartOrigin(lab.OriginOptions{}, append(slices.Clone(d.shelf), d.rest)...))(t)
			t.Cleanup(func() {
				if err := up.Down(); err != nil {
					t.Error(err)
				}
			})
			takeDown(t, up)
			m := d.start(t, dir, up)
			for _, img := range d.shelf {
				everything(t, m, img)
			}
			for _, ref := range []string{"garbage", "unknown", unknown.String()} {
				if a := get(t, manifestURL(m, "damage/multi", ref)); a.Status < 400 || a.code(t) == "" {
					t.Errorf("%s, which is nothing: status %d", ref, a.Status)
				}
			}
			if a := get(t, blobURL(m, "damage/multi", unknown)); a.Status == 200 && a.Err == nil {
				t.Errorf("a blob with other content than its name says: a complete 200 of %d bytes", len(a.Body))
			}
			bringUp(t, up)
			eventually(t, "upstream is found again", func() bool { return pull(t.Context(), m, d.rest) == nil })
			everything(t, m, large)
			if err := m.Stop(); err != nil {
				t.Error(err)
			}
		})
	}
}
