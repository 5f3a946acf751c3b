CREATE TABLE plans (
    plan_id integer PRIMARY KEY,
    name text NOT NULL,
    price_cents integer NOT NULL,
    seats integer NOT NULL
);

CREATE TABLE countries (
    country_code text PRIMARY KEY,
    name text NOT NULL
);

CREATE TABLE settings (
    key text PRIMARY KEY,
    value text NOT NULL
);

CREATE TABLE tenants (
    tenant_id bigint PRIMARY KEY,
    name text NOT NULL,
    plan_id integer NOT NULL REFERENCES plans,
    country_code text NOT NULL REFERENCES countries,
    created_at timestamptz NOT NULL
);

CREATE TABLE projects (
    tenant_id bigint NOT NULL REFERENCES tenants,
    id bigint NOT NULL,
    name text NOT NULL,
    status text NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id)
);

CREATE TABLE orders (
    tenant_id bigint NOT NULL REFERENCES tenants,
    id bigint NOT NULL,
    project_id bigint NOT NULL,
    status text NOT NULL,
    amount numeric(12, 2) NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, project_id) REFERENCES projects (tenant_id, id)
);

CREATE INDEX orders_created_at ON orders (tenant_id, created_at);

CREATE TABLE events (
    tenant_id bigint NOT NULL,
    id bigint NOT NULL,
    kind text NOT NULL,
    payload jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
