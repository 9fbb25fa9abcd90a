// Command stock2 is the registry of github.com/docker/distribution 2.8, as far as the
// module proxy still has what it is made of: its application, the proxy mode and the
// file system driver. Its own main package needs rsc.io/letsencrypt, which is gone.
// It takes the same arguments (serve FILE) and variables.
package main

import (
	"errors"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/docker/distribution/configuration"
	"github.com/docker/distribution/context"
	"github.com/docker/distribution/registry/handlers"
	_ "github.com/docker/distribution/registry/proxy"
	_ "github.com/docker/distribution/registry/storage/driver/filesystem"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

func run(args []string) error {
	if len(args) != 2 || args[0] != "serve" {
		return errors.New("usage: stock2 serve FILE")
	}
	f, err := os.Open(args[1])
	if err != nil {
		return err
	}
	config, err := configuration.Parse(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	server := &http.Server{
		Addr: config.HTTP.Addr, ReadHeaderTimeout: 10 * time.Second,
		Handler: handlers.NewApp(context.Background(), config),
	}
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	go func() {
		<-terminated
		_ = server.Close() // it ends with the process anyway
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
