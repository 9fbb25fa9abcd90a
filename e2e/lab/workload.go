package lab

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"time"
)

// WorkloadAPI is the workload API of an IoT Edge runtime, as far as a module asks it: for
// what the device trusts, and for a certificate of a server.
type WorkloadAPI struct {
	// Ledger has every request.
	Ledger

	layer  *Layer
	root   *Authority
	life   time.Duration
	server *http.Server
	ended  chan struct{}
}

// moduleID and generationID are what the runtime calls a registry module.
const (
	moduleID     = "registry"
	generationID = "637000000000000000"
)

// startWorkloadAPI starts it at a socket in a directory, with what the runtime gives to a
// module. Its certificates are good for life; 0 is for as long as is asked for. Close ends
// it.
func startWorkloadAPI(l *Layer, root *Authority, life time.Duration, dir, parent string) (*WorkloadAPI, Env, error) {
	socket := filepath.Join(dir, "workload.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, nil, fmt.Errorf("starting a workload API: %w", err)
	}
	w := &WorkloadAPI{layer: l, root: root, life: life, ended: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /trust-bundle", w.trustBundle)
	mux.HandleFunc("POST /modules/"+moduleID+"/genid/"+generationID+"/certificate/server", w.certificate)
	w.server = &http.Server{Handler: w.Record(Other, mux)}
	go func() {
		defer close(w.ended)
		_ = w.server.Serve(listener) // always ends with ErrServerClosed, by Close
	}()
	env := Env{
		"IOTEDGE_WORKLOADURI": "unix://" + socket, "IOTEDGE_MODULEID": moduleID, "IOTEDGE_MODULEGENERATIONID": generationID,
		"IOTEDGE_GATEWAYHOSTNAME": l.Hostname, "IOTEDGE_DEVICEID": l.Hostname, "IOTEDGE_APIVERSION": "2020-07-07", "RuntimeLogLevel": "info",
	}
	if parent != "" {
		env["IOTEDGE_PARENTHOSTNAME"] = parent
	}
	return w, env, nil
}

func (w *WorkloadAPI) trustBundle(rw http.ResponseWriter, _ *http.Request) {
	w.send(rw, http.StatusOK, map[string]any{
		"certificate": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.root.cert.Raw})),
	})
}

// certificate is for the module's name, too, whatever is asked for.
func (w *WorkloadAPI) certificate(rw http.ResponseWriter, r *http.Request) {
	var question struct {
		CommonName string
		Expiration time.Time
	}
	if err := json.NewDecoder(r.Body).Decode(&question); err != nil {
		w.send(rw, http.StatusBadRequest, map[string]any{"message": err.Error()})
		return
	}
	leaf := Leaf{CommonName: question.CommonName, Names: []string{question.CommonName, moduleID}, From: time.Now(), Until: question.Expiration}
	if w.life > 0 {
		leaf.Until = time.Now().Add(w.life)
	}
	cert, err := w.layer.Authority.Issue(leaf)
	if err != nil {
		w.send(rw, http.StatusInternalServerError, map[string]any{"message": err.Error()})
		return
	}
	chain, key, err := cert.pem()
	if err != nil {
		w.send(rw, http.StatusInternalServerError, map[string]any{"message": err.Error()})
		return
	}
	w.send(rw, http.StatusCreated, map[string]any{
		"privateKey": map[string]string{"type": "key", "bytes": string(key)}, "certificate": string(chain),
		"expiration": leaf.Until.UTC().Format(time.RFC3339),
	})
}

func (w *WorkloadAPI) send(rw http.ResponseWriter, status int, body map[string]any) {
	rw.Header().Set("Content-Type", "application/json")
	rw.WriteHeader(status)
	_ = json.NewEncoder(rw).Encode(body) // who has gone does not read it
}

// Close ends it.
func (w *WorkloadAPI) Close() error {
	err := w.server.Close()
	<-w.ended
	return err
}
