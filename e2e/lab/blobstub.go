package lab

import (
	"fmt"
	"io"
	"net"
	"net/http"
)

// BlobStub stands where the blob service of the top layer stands (Azure Blob Storage on
// IoT Edge): it takes all that it is sent, says so, and keeps none of it.
type BlobStub struct {
	// Ledger has every request.
	Ledger
	server *http.Server
	ended  chan struct{}
}

// blobService is the name and port that the blob service has on its device.
const blobService = "AzureBlobStorageonIoTEdge:11002"

// StartBlobStub starts it. Close ends it.
func StartBlobStub(l net.Listener) *BlobStub {
	b := &BlobStub{ended: make(chan struct{})}
	b.server = &http.Server{Handler: b.Record(Other, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			return // the client has gone
		}
		w.Header().Set("x-ms-version", r.Header.Get("x-ms-version"))
		w.WriteHeader(http.StatusCreated)
		_, _ = fmt.Fprintf(w, "%d bytes", n) // who has gone does not read it
	}))}
	go func() {
		defer close(b.ended)
		_ = b.server.Serve(l) // always ends with ErrServerClosed, by Close
	}()
	return b
}

// Close ends it.
func (b *BlobStub) Close() error {
	err := b.server.Close()
	<-b.ended
	return err
}
