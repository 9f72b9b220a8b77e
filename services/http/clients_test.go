package http

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// curl runs the stock client and returns what it wrote.
func curl(t *testing.T, args ...string) string {
	t.Helper()
	bin, err := exec.LookPath("curl")
	if err != nil {
		if os.Getenv("PORTHOLE_E2E") == "require" {
			t.Fatal("curl is required here")
		}
		t.Skip("curl is not installed")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, append([]string{"-q", "--noproxy", "*", "-sS", "--max-time", "50"}, args...)...)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err = cmd.Run()
	require.NoError(t, err, "curl %s: %s", strings.Join(args, " "), stderr.String())
	return out.String()
}

func TestCurl(t *testing.T) {
	w, dir := tree(t, true, nil)
	local := filepath.Join(t.TempDir(), "local.bin")
	const size = 1300000 // beyond 1 MiB curl expects 100-continue
	require.NoError(t, os.WriteFile(local, expect(0, size), 0o644))
	sum := sha256.Sum256(expect(0, size))
	answer := fmt.Sprintf(`{"bytes":%d,"sha256":"%s"}`+"\n", size, hex.EncodeToString(sum[:]))

	for _, version := range []string{"--http1.0", "--http1.1", "--http2", "--http2-prior-knowledge"} {
		t.Run(version, func(t *testing.T) {
			want := map[string]string{"--http1.0": "1", "--http1.1": "1.1"}[version]
			if want == "" {
				want = "2"
			}
			blob := w.url + "/blob/1300000"
			require.Equal(t, want+" 200", curl(t, version, "-o", "/dev/null", "-w", "%{http_version} %{http_code}", blob)[:len(want)+4])
			require.True(t, bytes.Equal(expect(0, size), []byte(curl(t, version, blob))))
			require.Equal(t, string(expect(65000, 1001)), curl(t, version, "--range", "65000-66000", blob))
			require.Contains(t, curl(t, version, "-I", blob), "ength: 1300000\r\n"[1:])
			require.Equal(t, answer, curl(t, version, "-T", local, w.url+"/sink"))
			require.Equal(t, answer, curl(t, version, "--data-binary", "@"+local, w.url+"/sink"))
			require.Contains(t, curl(t, version, w.url+"/"), "What to try")
			require.Contains(t, curl(t, version, "-H", "Accept: text/plain", w.url+"/"), "\ntry\n")
			if version != "--http2-prior-knowledge" { // curl 7.88 fails to use such a connection twice (its issue 10634)
				require.Contains(t, curl(t, version, "-L", w.url+"/test/redirect/2"), `"url"`)
			}
			require.Contains(t, curl(t, version, "-d", "a=b", w.url+"/test/post"), `"a=b"`)
			require.Equal(t, "401", curl(t, version, "-o", "/dev/null", "-w", "%{http_code}", "-u", "u:wrong", w.url+"/test/basic-auth/u/p"))
			require.Equal(t, "200", curl(t, version, "-o", "/dev/null", "-w", "%{http_code}", "-u", "u:p", w.url+"/test/basic-auth/u/p"))

			name := "up" + strings.TrimLeft(version, "-")
			require.Equal(t, "201", curl(t, version, "-o", "/dev/null", "-w", "%{http_code}", "-T", local, w.url+"/files/"+name))
			stored, err := os.ReadFile(filepath.Join(dir, name))
			require.NoError(t, err)
			require.True(t, bytes.Equal(expect(0, size), stored))
			// A download that is resumed.
			part := filepath.Join(t.TempDir(), "part")
			require.NoError(t, os.WriteFile(part, expect(0, 1234567), 0o644))
			curl(t, version, "-C", "-", "-o", part, blob)
			got, err := os.ReadFile(part)
			require.NoError(t, err)
			require.True(t, bytes.Equal(expect(0, size), got))
		})
	}
	t.Run("chunked", func(t *testing.T) {
		require.Equal(t, answer, curl(t, "-H", "Transfer-Encoding: chunked", "-T", local, w.url+"/sink"))
	})
	t.Run("conditional", func(t *testing.T) {
		require.Equal(t, "304", curl(t, "-o", "/dev/null", "-w", "%{http_code}", "-z", "Tue, 01 Jan 2030 00:00:00 GMT", w.url+"/files/a.txt"))
	})
	t.Run("parallel", func(t *testing.T) {
		out := curl(t, "--parallel", "--parallel-max", "50", "-o", "/dev/null", "-w", "%{http_code} %{size_download}\n", w.url+"/blob/[10001-10200]")
		require.Equal(t, 200, strings.Count(out, "200 10"))
	})
}
