package upstreamtest

import (
	"bytes"
	_ "crypto/sha256" // digest algorithms that content may be added under
	_ "crypto/sha512"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// Registry is a scripted registry. Its methods may be called at any time, by
// any goroutine, also while it serves.
type Registry struct {
	counts counts
	pace   pacer
	net    network
	tb     TB // nil outside of tests

	mu       sync.Mutex
	repos    map[string]*repository
	blobs    map[digest.Digest]content
	auth     Auth
	tokens   map[string]token // those that were given out and are good
	latency  time.Duration
	connRate int64
	redirect bool
	// noReferrers says that there is no API for them, and referrersPage how many of
	// them an answer has at most; 0 is all.
	noReferrers   bool
	referrersPage int
	urls          urlSigner
	faults        []*activeFault

	done    chan struct{} // closed by Close; releases what is held
	closing sync.Once
}

// repository is what one repository has been given.
type repository struct {
	blobs     map[digest.Digest]bool
	manifests map[digest.Digest]manifest
	tags      map[string]digest.Digest
}

type manifest struct {
	mediaType string
	content   []byte
}

// NewHandler returns an empty registry that listens nowhere: serve it as an
// http.Handler.
func NewHandler() *Registry {
	return &Registry{
		repos: make(map[string]*repository),
		blobs: make(map[digest.Digest]content),
		done:  make(chan struct{}),
	}
}

// AddBlob puts content into repo and returns its sha256 digest. The content is
// kept, not copied.
func (r *Registry) AddBlob(repo string, content []byte) digest.Digest {
	return r.AddBlobAs(digest.SHA256, repo, content)
}

// AddBlobAs is [Registry.AddBlob] with a digest of another algorithm.
func (r *Registry) AddBlobAs(alg digest.Algorithm, repo string, content []byte) digest.Digest {
	dgst := alg.FromBytes(content)
	r.addBlob(repo, dgst, bytes.NewReader(content))
	return dgst
}

func (r *Registry) addBlob(repo string, dgst digest.Digest, c content) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blobs[dgst] = c
	r.repo(repo).blobs[dgst] = true
}

// AddManifest puts content into repo, under its sha256 digest and, where tag is
// not empty, under tag too. The content is served as it is, manifest or not.
func (r *Registry) AddManifest(repo, tag, mediaType string, content []byte) digest.Digest {
	return r.AddManifestAs(digest.SHA256, repo, tag, mediaType, content)
}

// AddManifestAs is [Registry.AddManifest] with a digest of another algorithm.
func (r *Registry) AddManifestAs(alg digest.Algorithm, repo, tag, mediaType string, content []byte) digest.Digest {
	dgst := alg.FromBytes(content)
	r.mu.Lock()
	defer r.mu.Unlock()
	rp := r.repo(repo)
	rp.manifests[dgst] = manifest{mediaType: mediaType, content: content}
	if tag != "" {
		rp.tags[tag] = dgst
	}
	return dgst
}

// Tag points tag of repo at dgst, whether or not there is such a manifest.
func (r *Registry) Tag(repo, tag string, dgst digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.repo(repo).tags[tag] = dgst
}

// Untag removes tag from repo.
func (r *Registry) Untag(repo, tag string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.repo(repo).tags, tag)
}

// RemoveManifest removes dgst from repo. Tags that point at it stay, and are
// answered with 404.
func (r *Registry) RemoveManifest(repo string, dgst digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.repo(repo).manifests, dgst)
}

// RemoveBlob removes dgst from repo.
func (r *Registry) RemoveBlob(repo string, dgst digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.repo(repo).blobs, dgst)
}

// SetLatency makes each answer of the registry, its token service and its blob
// host begin d after the request has come in.
func (r *Registry) SetLatency(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.latency = d
}

// SetRate bounds what all connections together send of blobs and manifests, in
// bytes per second. 0 is no bound.
func (r *Registry) SetRate(bytesPerSecond int64) {
	r.pace.set(bytesPerSecond)
}

// SetConnectionRate bounds what each connection sends, in bytes per second,
// where no [Fault] says otherwise. 0 is no bound.
func (r *Registry) SetConnectionRate(bytesPerSecond int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.connRate = bytesPerSecond
}

// SetRedirect says whether GET and HEAD of blobs are redirected to the blob
// host, under a URL that is signed for a single blob; see
// [Registry.SetURLLifetime].
func (r *Registry) SetRedirect(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.redirect = on
}

// ServeHTTP implements http.Handler: registry, token service and blob host on
// one address.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	switch {
	case strings.HasPrefix(req.URL.Path, cdnPrefix):
		r.serveCDN(w, req)
	case req.URL.Path == tokenPath:
		r.serveToken(w, req)
	default:
		r.serveRegistry(w, req)
	}
}

// repo returns the repository of that name, made if need be. The caller holds
// r.mu.
func (r *Registry) repo(name string) *repository {
	rp := r.repos[name]
	if rp == nil {
		rp = &repository{
			blobs:     make(map[digest.Digest]bool),
			manifests: make(map[digest.Digest]manifest),
			tags:      make(map[string]digest.Digest),
		}
		r.repos[name] = rp
	}
	return rp
}

// blob returns the content of dgst if repo has it.
func (r *Registry) blob(repo string, dgst digest.Digest) (content, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rp := r.repos[repo]
	if rp == nil || !rp.blobs[dgst] {
		return nil, false
	}
	return r.blobs[dgst], true
}

// manifest returns what ref, a tag or a digest, stands for in repo.
func (r *Registry) manifest(repo, ref string) (digest.Digest, manifest, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rp := r.repos[repo]
	if rp == nil {
		return "", manifest{}, false
	}
	dgst, ok := rp.tags[ref]
	if !ok {
		dgst = digest.Digest(ref)
	}
	m, ok := rp.manifests[dgst]
	return dgst, m, ok
}

// tags returns the tags of repo in lexical order.
func (r *Registry) tags(repo string) ([]string, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rp := r.repos[repo]
	if rp == nil {
		return nil, false
	}
	tags := make([]string, 0, len(rp.tags))
	for t := range rp.tags {
		tags = append(tags, t)
	}
	slices.Sort(tags)
	return tags, true
}
