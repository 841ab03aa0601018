# The images of compose.yaml, with the versions of conda.yaml: a server without torch, and a worker with all of the project.
FROM python:3.11-slim AS base
WORKDIR /project
COPY conda.yaml .
RUN sed -n 's/\[.*\]//; s/^ *- \(.*==.*\)/\1/p' conda.yaml > constraints.txt
RUN useradd --uid 1000 --create-home user && install --directory --owner=user /kept

FROM base AS server
RUN pip install --no-cache-dir --constraint constraints.txt 'boto3>=1.40,<2' 'mlflow[auth]' 'psycopg[binary]' sqlalchemy
USER user

FROM base AS worker
COPY pyproject.toml README.md MLproject mlproject.py ./
COPY segmentation segmentation
COPY studies studies
RUN pip install --no-cache-dir --constraint constraints.txt --editable .
USER user
