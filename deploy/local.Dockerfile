# The same image from programs that were compiled on this machine: see build-local.sh.
FROM scratch
COPY bin/ /bin/
COPY etc/ /etc/
