-- Run once, when the volume of Postgres is new.
CREATE DATABASE mlflow;
CREATE DATABASE prefect;
