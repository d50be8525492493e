# The machine's own haproxy with the libraries that it needs, where no image can be pulled: see build-local.sh.
FROM scratch
COPY balancer/ /
USER 65532:65532
ENTRYPOINT ["/usr/sbin/haproxy", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]
