package http

import (
	"errors"
	"fmt"
	"os"
	"time"

	"porthole/services"
)

// Config is what the service can be told. Every limit is on by default.
type Config struct {
	Files       string        `yaml:"files" doc:"directory served under /files/; empty takes files/ in the data directory, or nothing when there is none"`
	Upload      bool          `yaml:"upload" doc:"let PUT create and replace files under /files/ (no authentication: anyone who reaches the host may)"`
	UploadLimit services.Size `yaml:"upload-limit" doc:"largest uploaded file; a larger one is answered 413"`
	UploadTotal services.Size `yaml:"upload-total" doc:"most that all files under /files/ may take together; beyond it an upload is answered 507"`

	BlobLimit services.Size `yaml:"blob-limit" doc:"largest N of /blob/N"`
	SinkLimit services.Size `yaml:"sink-limit" doc:"largest request body of /sink"`
	TestLimit services.Size `yaml:"test-limit" doc:"largest request and response body of /test/"`
	PageLimit services.Size `yaml:"page-limit" doc:"largest request body of any other page"`

	MaxConnections int `yaml:"max-connections" doc:"connections at a time; more wait in the port's accept queue"`
	MaxRequests    int `yaml:"max-requests" doc:"requests at a time, over all connections; more are answered 503"`
	MaxStreams     int `yaml:"max-streams" doc:"requests at a time on one HTTP/2 connection"`

	HeaderLimit services.Size `yaml:"header-limit" doc:"bytes of request line and header fields; more is answered 431"`
	URILimit    services.Size `yaml:"uri-limit" doc:"bytes of the request target; more is answered 414"`

	HeaderTimeout time.Duration `yaml:"header-timeout" doc:"longest time from the start of a connection, or from the first byte of a later request, to the end of the request's header; else 408, if any of it came"`
	IdleTimeout   time.Duration `yaml:"idle-timeout" doc:"longest time between two requests of a connection"`
	BodyTimeout   time.Duration `yaml:"body-timeout" doc:"a request body must bring 4 KiB, or its end, within this time, again and again; else 408"`
	WriteTimeout  time.Duration `yaml:"write-timeout" doc:"longest time a client may take none of a response before its connection is closed"`

	H2C bool `yaml:"h2c" doc:"HTTP/2 without TLS, by prior knowledge and by Upgrade: h2c"`
}

// Default is the configuration of a service that was told nothing.
func Default() Config {
	return Config{
		UploadLimit: 1 * services.GiB,
		UploadTotal: 8 * services.GiB,
		BlobLimit:   8 * services.GiB,
		SinkLimit:   64 * services.GiB,
		TestLimit:   1 * services.MiB,
		PageLimit:   1 * services.MiB,

		MaxConnections: 1024,
		MaxRequests:    4096,
		MaxStreams:     100,

		HeaderLimit: 64 * services.KiB,
		URILimit:    8 * services.KiB,

		HeaderTimeout: 10 * time.Second,
		IdleTimeout:   60 * time.Second,
		BodyTimeout:   30 * time.Second,
		WriteTimeout:  30 * time.Second,

		H2C: true,
	}
}

// Bounds that no configuration may pass: net/http reads headers into memory, and
// an int32 counts HTTP/2 streams.
const (
	minHeaderLimit = 8 * services.KiB
	maxHeaderLimit = 16 * services.MiB
	maxTestLimit   = 64 * services.MiB
	maxCount       = 1 << 20
	maxSize        = services.Size(1) << 50
)

// ValidateData reports what is wrong with the host's data directory being dir.
func (c *Config) ValidateData(dir string) error {
	if c.Upload && c.Files == "" && dir == "" {
		return &services.ConfigError{Key: "upload", Err: errors.New("needs a directory: set files here, or data-dir for the host")}
	}
	return nil
}

// Validate reports the first wrong key.
func (c *Config) Validate() error {
	bad := func(key, format string, args ...any) error {
		return &services.ConfigError{Key: key, Err: fmt.Errorf(format, args...)}
	}
	if c.Files != "" {
		if fi, err := os.Stat(c.Files); err != nil {
			return bad("files", "%w", err)
		} else if !fi.IsDir() {
			return bad("files", "%s is no directory", c.Files)
		}
	}
	for _, s := range []struct {
		key      string
		val      services.Size
		min, max services.Size
	}{
		{"upload-limit", c.UploadLimit, 1, maxSize},
		{"upload-total", c.UploadTotal, 1, maxSize},
		{"blob-limit", c.BlobLimit, 1, maxSize},
		{"sink-limit", c.SinkLimit, 1, maxSize},
		{"test-limit", c.TestLimit, 1 * services.KiB, maxTestLimit},
		{"page-limit", c.PageLimit, 1, maxSize},
		{"header-limit", c.HeaderLimit, minHeaderLimit, maxHeaderLimit},
		{"uri-limit", c.URILimit, 256, maxHeaderLimit},
	} {
		if s.val < s.min || s.val > s.max {
			return bad(s.key, "%v is not %v to %v", s.val, s.min, s.max)
		}
	}
	if c.URILimit > c.HeaderLimit {
		return bad("uri-limit", "%v is more than header-limit (%v), which the request line is part of", c.URILimit, c.HeaderLimit)
	}
	for _, n := range []struct {
		key string
		val int
	}{
		{"max-connections", c.MaxConnections},
		{"max-requests", c.MaxRequests},
		{"max-streams", c.MaxStreams},
	} {
		if n.val < 1 || n.val > maxCount {
			return bad(n.key, "%d is not 1 to %d", n.val, maxCount)
		}
	}
	for _, d := range []struct {
		key string
		val time.Duration
	}{
		{"header-timeout", c.HeaderTimeout},
		{"idle-timeout", c.IdleTimeout},
		{"body-timeout", c.BodyTimeout},
		{"write-timeout", c.WriteTimeout},
	} {
		if d.val < time.Millisecond || d.val > 24*time.Hour {
			return bad(d.key, "%v is not 1ms to 24h", d.val)
		}
	}
	return nil
}
