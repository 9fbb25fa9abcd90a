package workloadtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Kind is what the API is asked for.
type Kind string

// Kinds.
const (
	TrustBundle       Kind = "trust bundle"
	ServerCertificate Kind = "server certificate"
	// Other is what aziot-edged would answer 404 to.
	Other Kind = "other"
)

// TB is what is needed of a *testing.T or *testing.B.
type TB interface {
	Helper()
	Cleanup(func())
	TempDir() string
	Fatalf(format string, args ...any)
}

// Fault is how requests are answered instead of as they should be.
type Fault struct {
	// Status, where it is not 0, is that of an answer {"message": Message}.
	Status  int
	Message string
	// Body, where it is not empty, is the body of an answer with status 200.
	Body string
	// Drop ends the connection without an answer.
	Drop bool
	// Hang holds the answer back until the client leaves.
	Hang bool
}

// Options say what the API gives. The zero value works.
type Options struct {
	// ModuleID and GenerationID are those of the module that may ask for
	// certificates. Default: "registry" and "1".
	ModuleID, GenerationID string
	// Now is the clock of the device. Default: [time.Now].
	Now func() time.Time
	// Life bounds for how long a certificate is valid. Default: as long as is asked for.
	Life time.Duration
	// Root is the authority of the site. Default: one of its own.
	Root *CA
}

// API is a workload API. It is safe for use by several goroutines.
type API struct {
	socket string
	opts   Options

	mu     sync.Mutex // guards following
	root   *CA
	edge   *CA
	bundle []byte
	counts map[Kind]int
	asked  []Certificate
	faults map[Kind]Fault
	server *http.Server
	done   chan struct{}
}

// Certificate is one that was asked for.
type Certificate struct {
	CommonName string
	Expiration time.Time
	APIVersion string
}

// New serves an API at a socket in a directory of the test's until that ends.
func New(tb TB, opts Options) *API {
	tb.Helper()
	a, err := Serve(filepath.Join(tb.TempDir(), "workload.sock"), opts)
	if err != nil {
		tb.Fatalf("serving a workload API: %v", err)
	}
	tb.Cleanup(a.Stop)
	return a
}

// Serve serves an API at a socket until Stop.
func Serve(socket string, opts Options) (*API, error) {
	if opts.ModuleID == "" {
		opts.ModuleID = "registry"
	}
	if opts.GenerationID == "" {
		opts.GenerationID = "1"
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	a := &API{socket: socket, opts: opts, counts: map[Kind]int{}, faults: map[Kind]Fault{}}
	if err := a.Rotate(opts.Root); err != nil {
		return nil, err
	}
	return a, a.Start()
}

// Rotate replaces the authorities of the device: by the Edge CA that root makes for it,
// or below a new root where that is nil. What was given before stays as it is.
func (a *API) Rotate(root *CA) (err error) {
	if root == nil {
		if root, err = NewRoot("workloadtest root"); err != nil {
			return err
		}
	}
	edge, err := root.newEdgeCA("device", a.opts.Now())
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.root, a.edge, a.bundle = root, edge, root.PEM()
	return nil
}

// Start serves again after Stop, at the same socket.
func (a *API) Start() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.server != nil {
		return nil
	}
	ln, err := net.Listen("unix", a.socket)
	if err != nil {
		return fmt.Errorf("serving a workload API: %w", err)
	}
	server, done := &http.Server{Handler: a, ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute}, make(chan struct{})
	a.server, a.done = server, done
	go func() {
		defer close(done)
		if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			_ = ln.Close() // clients see it
		}
	}()
	return nil
}

// Stop ends as aziot-edged does that is stopped: connections end, and nobody listens.
func (a *API) Stop() {
	a.mu.Lock()
	server, done := a.server, a.done
	a.server = nil
	a.mu.Unlock()
	if server != nil {
		_ = server.Close() // nobody needs what it says
		<-done
	}
}

// URI is what IOTEDGE_WORKLOADURI is to be.
func (a *API) URI() string { return "unix://" + a.socket }

// Environment is what the runtime injects into a module, as "name=value", for a gateway
// of that name.
func (a *API) Environment(gateway string) []string {
	return []string{
		"IOTEDGE_WORKLOADURI=" + a.URI(),
		"IOTEDGE_MODULEID=" + a.opts.ModuleID,
		"IOTEDGE_MODULEGENERATIONID=" + a.opts.GenerationID,
		"IOTEDGE_APIVERSION=2019-01-30",
		"IOTEDGE_GATEWAYHOSTNAME=" + gateway,
	}
}

// Root is the authority of the site.
func (a *API) Root() *CA {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.root
}

// EdgeCA is the authority of the device.
func (a *API) EdgeCA() *CA {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.edge
}

// SetTrustBundle replaces what is given as trust bundle.
func (a *API) SetTrustBundle(pem []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.bundle = pem
}

// Break has requests of a kind fail until Mend.
func (a *API) Break(kind Kind, fault Fault) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.faults[kind] = fault
}

// Mend ends all faults.
func (a *API) Mend() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.faults)
}

// Requests is how many requests of those kinds have come, of all where none is named.
func (a *API) Requests(kinds ...Kind) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for kind, count := range a.counts {
		if len(kinds) == 0 || slices.Contains(kinds, kind) {
			n += count
		}
	}
	return n
}

// Asked are the certificates that were asked for.
func (a *API) Asked() []Certificate {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]Certificate(nil), a.asked...)
}

// ServeHTTP implements [http.Handler].
func (a *API) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	kind := a.kindOf(req)
	question, err := io.ReadAll(io.LimitReader(req.Body, 1<<16)) // or it would not be seen that the client leaves
	if err != nil {
		return // it has left
	}
	a.mu.Lock()
	a.counts[kind]++
	fault, broken := a.faults[kind]
	a.mu.Unlock()
	switch {
	case broken && fault.Drop:
		panic(http.ErrAbortHandler)
	case broken && fault.Hang:
		<-req.Context().Done()
	case broken && fault.Status != 0:
		refuse(w, fault.Status, fault.Message)
	case broken:
		_, _ = io.WriteString(w, fault.Body) // the client may have left
	case req.URL.Query().Get("api-version") == "":
		refuse(w, http.StatusBadRequest, "api-version not specified")
	case kind == TrustBundle:
		a.giveBundle(w)
	case kind == ServerCertificate:
		a.giveCertificate(w, req.URL.Query().Get("api-version"), question)
	default:
		refuse(w, http.StatusNotFound, "not found")
	}
}

func (a *API) kindOf(req *http.Request) Kind {
	switch {
	case req.Method == http.MethodGet && req.URL.Path == "/trust-bundle":
		return TrustBundle
	case req.Method == http.MethodPost && req.URL.Path == "/modules/"+a.opts.ModuleID+"/genid/"+a.opts.GenerationID+"/certificate/server":
		return ServerCertificate
	}
	return Other
}

func (a *API) giveBundle(w http.ResponseWriter) {
	a.mu.Lock()
	defer a.mu.Unlock()
	give(w, http.StatusOK, map[string]string{"certificate": string(a.bundle)})
}

func (a *API) giveCertificate(w http.ResponseWriter, version string, body []byte) {
	var question struct {
		CommonName string    `json:"commonName"`
		Expiration time.Time `json:"expiration"`
	}
	if err := json.Unmarshal(body, &question); err != nil || question.CommonName == "" {
		refuse(w, http.StatusUnprocessableEntity, "malformed request body")
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = append(a.asked, Certificate{question.CommonName, question.Expiration, version})
	now, until := a.opts.Now(), question.Expiration
	if limit := now.Add(a.opts.Life); a.opts.Life > 0 && until.After(limit) {
		until = limit
	}
	cert, key, err := a.edge.Issue(now, until, question.CommonName, a.opts.ModuleID)
	if err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	give(w, http.StatusCreated, map[string]any{
		"privateKey":  map[string]string{"type": "key", "bytes": string(key)},
		"certificate": string(cert),
		"expiration":  until.UTC().Format(time.RFC3339),
	})
}

func refuse(w http.ResponseWriter, status int, message string) {
	give(w, status, map[string]string{"message": message})
}

func give(w http.ResponseWriter, status int, answer any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer) // the client may have left
}
