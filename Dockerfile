# One image for all roles: `shoal node`, `shoal manager`, and the command line.
#
#   docker build --tag shoal .
#   docker run --rm shoal --help

FROM python:3.13-slim AS build
WORKDIR /src
# What is installed changes seldom, what is built of it often: the dependencies are a layer of their own.
COPY pyproject.toml README.md ./
RUN python -m venv /opt/shoal \
    && python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
extras = p['optional-dependencies']; \
print('\n'.join(p['dependencies'] + extras['server'] + extras['tracing-export']))" > /tmp/requirements.txt \
    && /opt/shoal/bin/pip install --no-cache-dir --requirement /tmp/requirements.txt
COPY client client
COPY server server
COPY shardmanager shardmanager
COPY chaos chaos
RUN /opt/shoal/bin/pip install --no-cache-dir --no-deps .

FROM python:3.13-slim
RUN useradd --system --uid 10001 --user-group --home-dir /var/lib/shoal --create-home shoal
COPY --from=build /opt/shoal /opt/shoal
ENV PATH=/opt/shoal/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER shoal
WORKDIR /var/lib/shoal
VOLUME /var/lib/shoal
# The nodes' own protocol, gRPC, and metrics with the health pages.
EXPOSE 7400 7500 7600
STOPSIGNAL SIGTERM
ENTRYPOINT ["shoal"]
CMD ["--help"]
