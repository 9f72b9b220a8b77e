package porthole_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"porthole"
	"porthole/services"
	"porthole/services/ftp"
	"porthole/services/http"
)

func TestKernelPing(t *testing.T) {
	t.Parallel()
	need(t, "ping")
	eachDevice(t, func(t *testing.T, r *kernelRig) {
		for _, h := range hosts {
			r.run("ping", "-c", "3", "-i", "0.05", "-W", "60", h)
			r.run("ping", "-c", "2", "-i", "0.05", "-W", "60", "-s", "20000", h)
		}
	})
}

func TestKernelCurl(t *testing.T) {
	need(t, "curl")
	if testing.Short() {
		t.Skip("384 MiB")
	}
	eachDevice(t, func(t *testing.T, r *kernelRig) {
		for _, url := range urls {
			t.Run(url, func(t *testing.T) {
				out := r.sh(fmt.Sprintf(`
					curl -gsS --fail -o blob %[1]s/blob/67108864
					curl -gsS --fail -T blob %[1]s/sink -o answer
					sha256sum blob | cut -d' ' -f1
					cat answer`, url))
				sum, answer, _ := strings.Cut(out, "\n")
				var got struct {
					Bytes  int64
					SHA256 string
				}
				require.NoError(t, json.Unmarshal([]byte(answer), &got), "%s", out)
				require.EqualValues(t, 64<<20, got.Bytes)
				require.Equal(t, sum, got.SHA256)
			})
		}
	})
}

func TestKernelCurlParallel(t *testing.T) {
	need(t, "curl")
	eachDevice(t, func(t *testing.T, r *kernelRig) {
		tellFlows(t, r.host, services.TCP(80))
		for _, url := range urls {
			out := r.sh(`
				for i in $(seq 200); do echo "url = ` + url + `/blob/10000?$i"; echo "output = /dev/null"; done >list
				curl -gsS --fail -Z --parallel-immediate --parallel-max 200 -w '%{http_code} %{size_download}\n' -K list`)
			require.Equal(t, 200, strings.Count(out, "200 10000\n"), "%s", out)
		}
	})
}

// dig asks once: what is late on a busy machine is no second question.
func (r *kernelRig) dig(host string, args ...string) string {
	r.t.Helper()
	return r.run("dig", append([]string{"@" + host, "+time=60", "+tries=1"}, args...)...)
}

func TestKernelDig(t *testing.T) {
	t.Parallel()
	need(t, "dig")
	eachDevice(t, func(t *testing.T, r *kernelRig) {
		for _, h := range hosts {
			for _, typ := range []string{"SOA", "NS", "A", "AAAA", "MX", "TXT"} {
				for _, proto := range []string{"+notcp", "+tcp"} {
					out := r.dig(h, "+noidnin", proto, "porthole.test", typ)
					require.Contains(t, out, "status: NOERROR", "%s", out)
					require.Regexp(t, `IN\s+`+typ+`\s`, out)
					require.Contains(t, out, " aa ")
				}
			}
			out := r.dig(h, "+short", "-x", "10.77.0.1")
			require.Contains(t, out, "porthole.test.")
			out = r.dig(h, "+short", "-x", "fd77::1")
			require.Contains(t, out, "porthole.test.")
			require.Contains(t, r.dig(h, "+short", "http.porthole.test"), "10.77.0.1")
			require.Regexp(t, `\d+ \d+ 80 `, r.dig(h, "+short", "SRV", "_http._tcp.porthole.test"))
			require.Contains(t, r.dig(h, "nothing.porthole.test"), "status: NXDOMAIN")
			require.Contains(t, r.dig(h, "example.com"), "status: REFUSED")
			require.Contains(t, r.dig(h, "+opcode=status", "porthole.test"), "status: NOTIMP")
			// dig asks again over TCP when the answer was cut.
			out = r.dig(h, "+bufsize=512", "big.porthole.test", "TXT")
			require.Contains(t, out, "Truncated, retrying in TCP mode")
			require.Contains(t, out, "status: NOERROR")
			out = r.dig(h, "+bufsize=512", "+ignore", "big.porthole.test", "TXT")
			require.Contains(t, out, " tc")
		}
	})
}

// ftpWritable lets a named user write into a directory of the test's own.
func ftpWritable(t *testing.T) (kernelOptions, string) {
	dir := t.TempDir()
	return kernelOptions{config: func(c *porthole.Config) {
		o := c.Services["ftp"].Options.(*ftp.Config)
		o.Root = dir
		o.Users = []ftp.User{{Name: "ann", Password: "secret", Write: true}}
	}}, dir
}

func TestKernelFTP(t *testing.T) {
	t.Parallel()
	need(t, "curl", "lftp")
	for _, kind := range devices {
		t.Run(kind, func(t *testing.T) {
			o, dir := ftpWritable(t)
			o.kind = kind
			size := 3 << 20
			if testing.Short() {
				size >>= 3
			}
			data := make([]byte, size)
			for i := range data {
				data[i] = byte(i * 7 >> 3)
			}
			require.NoError(t, os.MkdirAll(filepath.Join(dir, "pub/deep/er"), 0o755))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "pub/file"), data, 0o644))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "pub/deep/er/leaf"), data[:999], 0o644))
			r := newKernelRig(t, o)
			for i, h := range []string{"10.77.0.1", "[fd77::1]"} {
				ftp := "ftp://" + h
				r.sh(fmt.Sprintf(`
					curl -gsS %[1]s/pub/ | grep -q file
					curl -gsS -o passive %[1]s/pub/file
					cmp passive %[2]s/pub/file
					curl -gsS -P - -o active %[1]s/pub/file
					cmp active %[2]s/pub/file
					head -c %[4]d passive >part
					curl -gsS -C - -o part %[1]s/pub/file
					cmp part %[2]s/pub/file
					curl -gsS -u ann:secret -T passive %[1]s/up%[3]d
					cmp passive %[2]s/up%[3]d
					curl -gsS -u ann:secret -P - -T passive %[1]s/upa%[3]d
					cmp passive %[2]s/upa%[3]d
					head -c %[4]d passive >half
					curl -gsS -u ann:secret -T half %[1]s/res%[3]d
					curl -gsS -u ann:secret -C - -T passive %[1]s/res%[3]d
					cmp passive %[2]s/res%[3]d
					if curl -gsS -T passive %[1]s/anon%[3]d; then exit 1; fi
				`, ftp, dir, i, size/3))
				r.sh(fmt.Sprintf(`
					lftp -c 'set net:timeout 60; set net:max-retries 1; set ftp:passive-mode on; open %[1]s; mirror --parallel=4 pub mirror; ls; get pub/file -o got'
					cmp got %[2]s/pub/file
					cmp mirror/deep/er/leaf %[2]s/pub/deep/er/leaf
					lftp -c 'set net:timeout 60; set net:max-retries 1; set ftp:passive-mode off; open %[1]s; get pub/file -o got2'
					cmp got2 %[2]s/pub/file
					lftp -c 'set net:timeout 60; set net:max-retries 1; open -u ann,secret %[1]s; mirror -R mirror back%[3]d; mv back%[3]d moved%[3]d; rm moved%[3]d/file; mkdir -p a/b%[3]d; rmdir a/b%[3]d'
					cmp mirror/deep/er/leaf %[2]s/moved%[3]d/deep/er/leaf
					test ! -e %[2]s/moved%[3]d/file
				`, ftp, dir, i))
			}
			r.law()
		})
	}
}

func TestKernelHTTPFiles(t *testing.T) {
	need(t, "curl")
	dir := t.TempDir()
	r := newKernelRig(t, kernelOptions{config: func(c *porthole.Config) {
		o := c.Services["http"].Options.(*http.Config)
		o.Files, o.Upload = dir, true
	}})
	r.sh(`
		head -c 3000000 /dev/urandom >file
		curl -gsS --fail -T file http://10.77.0.1/files/file
		curl -gsS --fail -o back http://10.77.0.1/files/file
		cmp file back
		head -c 1000 file >part
		curl -gsS --fail -C - -o part 'http://[fd77::1]/files/file'
		cmp file part
		curl -gsS --fail --http2-prior-knowledge -o h2 http://10.77.0.1/files/file
		cmp file h2
		curl -gsS --fail http://10.77.0.1/files/ | grep -q file
		curl -gsS --fail http://10.77.0.1/test/get?a=b | grep -q '"a"'
	`)
	r.law()
}

func TestKernelNmap(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("65,535 ports")
	}
	need(t, "nmap")
	r := newKernelRig(t, kernelOptions{})
	want := map[string]bool{}
	for _, p := range r.host.Ports() {
		if p.Port.Proto == "tcp" && (p.State == "answering" || p.State == "listening") {
			want[fmt.Sprint(p.Port.Number)] = true
		}
	}
	out := r.run("nmap", "-sS", "-Pn", "-n", "-p-", "--min-rate", "3000", "-T4", "--max-retries", "10", "-oG", "-", "10.77.0.1")
	got := map[string]bool{}
	for _, line := range strings.Split(out, "\n") {
		_, ports, ok := strings.Cut(line, "Ports: ")
		if !ok {
			continue
		}
		ports, _, _ = strings.Cut(ports, "\t")
		for _, p := range strings.Split(ports, ", ") {
			if f := strings.Split(p, "/"); f[1] == "open" {
				got[f[0]] = true
			}
		}
	}
	require.Equal(t, want, got, "%s", out)

	// A dozen UDP ports, some of them closed. Echo, DNS and DHCP answer or stay
	// silent; closed ones answer port unreachable.
	out = r.run("nmap", "-sU", "-Pn", "-n", "-p", "7,9,53,67,69,123,137,161,500,514,1900,5353", "--max-retries", "10", "10.77.0.1")
	for _, closed := range []string{"69", "123", "137", "161", "500", "514", "1900", "5353"} {
		require.Regexp(t, `(?m)^`+closed+`/udp\s+closed`, out)
	}
	for _, open := range []string{"7", "53"} {
		require.Regexp(t, `(?m)^`+open+`/udp\s+open\s`, out)
	}
	for _, silent := range []string{"9", "67"} {
		require.Regexp(t, `(?m)^`+silent+`/udp\s+open`, out)
	}
	r.law()
}
