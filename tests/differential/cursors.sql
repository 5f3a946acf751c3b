--! simple
--! ordered
DECLARE c SCROLL CURSOR FOR SELECT tenant_id, id, qty FROM items ORDER BY qty NULLS FIRST, tenant_id, id; FETCH FIRST FROM c; FETCH 3 FROM c; FETCH PRIOR FROM c; FETCH LAST FROM c; FETCH NEXT FROM c; FETCH BACKWARD 2 FROM c; FETCH ABSOLUTE 5 FROM c; FETCH RELATIVE -2 FROM c; FETCH RELATIVE 0 FROM c; FETCH ABSOLUTE -1 FROM c; FETCH ABSOLUTE 0 FROM c; FETCH FORWARD 0 FROM c

--! simple
--! ordered
DECLARE c SCROLL CURSOR FOR SELECT tenant_id, id FROM items ORDER BY name, tenant_id, id; MOVE 10 IN c; FETCH BACKWARD 1 FROM c; MOVE BACKWARD ALL IN c; FETCH 1 FROM c; MOVE FORWARD ALL IN c; FETCH NEXT FROM c; FETCH PRIOR FROM c; FETCH ABSOLUTE 1000 FROM c; FETCH PRIOR FROM c; MOVE ABSOLUTE 3 IN c; FETCH RELATIVE 2 FROM c; MOVE RELATIVE -100 IN c; FETCH BACKWARD ALL FROM c; FETCH FORWARD 2 FROM c; CLOSE c

--! simple
--! ordered
DECLARE c SCROLL CURSOR FOR SELECT status, avg(amount), count(*) FROM orders GROUP BY status ORDER BY status; FETCH ALL FROM c; FETCH BACKWARD 2 FROM c; FETCH FIRST FROM c

--! simple
DECLARE c SCROLL CURSOR FOR SELECT avg(amount) FROM orders; FETCH ALL FROM c; FETCH BACKWARD ALL FROM c

--! simple
DECLARE c CURSOR FOR SELECT avg(amount) FROM orders; FETCH ALL FROM c; FETCH BACKWARD ALL FROM c

--! simple
DECLARE c NO SCROLL CURSOR FOR SELECT tenant_id, id FROM items ORDER BY tenant_id, id; FETCH 2 FROM c; FETCH PRIOR FROM c

--! simple
DECLARE c NO SCROLL CURSOR FOR SELECT id FROM items ORDER BY id, tenant_id; FETCH ABSOLUTE 3 FROM c; FETCH ABSOLUTE 2 FROM c

--! simple
--! ordered
DECLARE c INSENSITIVE BINARY SCROLL CURSOR FOR SELECT tenant_id, id, name FROM items ORDER BY tenant_id, id; FETCH 3 FROM c; FETCH BACKWARD 1 FROM c

--! simple
DECLARE c BINARY CURSOR FOR SELECT count(*), avg(qty) FROM items; FETCH c

--! simple
--! bare
DECLARE c SCROLL CURSOR FOR SELECT tenant_id FROM items

--! simple
DECLARE c CURSOR FOR SELECT tenant_id FROM items; DECLARE c SCROLL CURSOR FOR SELECT id FROM items

--! simple
DECLARE c CURSOR FOR SELECT id FROM items WHERE tenant_id = 5; DECLARE c SCROLL CURSOR FOR SELECT id FROM items

--! simple
DECLARE c CURSOR FOR SELECT id FROM items ORDER BY id, tenant_id; DECLARE c CURSOR FOR SELECT id FROM items WHERE tenant_id = 7

--! simple
FETCH 1 FROM nowhere

--! simple
--! bare
MOVE 1 IN nowhere

--! simple
CLOSE nowhere

--! simple
DECLARE c CURSOR FOR SELECT id FROM items; CLOSE c; FETCH 1 FROM c

--! simple
DECLARE c CURSOR FOR SELECT id FROM items; DECLARE d CURSOR FOR SELECT id FROM items WHERE tenant_id = 7; DECLARE e CURSOR FOR SELECT value FROM settings; CLOSE ALL; FETCH 1 FROM d

--! simple
--! ordered
DECLARE c CURSOR FOR SELECT tenant_id, id FROM items ORDER BY tenant_id, id; DECLARE d SCROLL CURSOR FOR SELECT id, tenant_id FROM orders ORDER BY id DESC, tenant_id; FETCH 2 FROM c; FETCH 2 FROM d; FETCH 2 FROM c; CLOSE c; DECLARE e CURSOR FOR SELECT count(*) FROM items; FETCH 2 FROM d; FETCH e; FETCH PRIOR FROM d

--! simple
--! block
SAVEPOINT a; DECLARE c SCROLL CURSOR FOR SELECT id FROM items ORDER BY id, tenant_id; FETCH 1 FROM c; ROLLBACK TO a; FETCH 1 FROM c

--! simple
--! block
--! ordered
SAVEPOINT a; DECLARE c SCROLL CURSOR FOR SELECT tenant_id FROM items ORDER BY tenant_id; ROLLBACK TO a; DECLARE c CURSOR FOR SELECT id FROM items WHERE tenant_id = 7 ORDER BY id; FETCH 2 FROM c

--! simple
--! block
--! ordered
DECLARE c SCROLL CURSOR FOR SELECT tenant_id, id FROM items ORDER BY tenant_id, id; SAVEPOINT a; FETCH 3 FROM c; DELETE FROM items WHERE id < 3; ROLLBACK TO a; FETCH 1 FROM c; RELEASE a; FETCH PRIOR FROM c; FETCH FIRST FROM c

--! simple
--! block
--! ordered
DECLARE c SCROLL CURSOR FOR SELECT tenant_id, qty FROM items WHERE id = 1 ORDER BY tenant_id; UPDATE items SET qty = 77; FETCH 3 FROM c; DELETE FROM items; FETCH 3 FROM c; FETCH FIRST FROM c

--! simple
--! bare
--! then FETCH 3 FROM c
--! then FETCH BACKWARD 2 FROM c
--! then MOVE ALL IN c
--! then FETCH PRIOR FROM c
--! then CLOSE c
--! then FETCH 1 FROM c
DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT tenant_id, id FROM items ORDER BY tenant_id, id

--! simple
--! bare
--! then FETCH 3 FROM c
--! then BEGIN
--! then FETCH 1 FROM c
--! then CLOSE ALL
--! then COMMIT
--! then FETCH 1 FROM c
BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT status, avg(amount) FROM orders GROUP BY status ORDER BY status; FETCH 1 FROM c; DECLARE d CURSOR FOR SELECT id FROM items; COMMIT

--! simple
--! bare
--! then FETCH 1 FROM c
BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT id FROM items ORDER BY id, tenant_id; FETCH 1 FROM c; ROLLBACK

--! simple
--! bare
--! then FETCH 3 FROM c
--! then DISCARD ALL
--! then FETCH 1 FROM c
DECLARE c CURSOR WITH HOLD FOR SELECT tenant_id, id FROM items WHERE qty > 3 ORDER BY tenant_id, id

--! simple
--! bare
--! then FETCH 1 FROM c
DECLARE c CURSOR WITH HOLD FOR SELECT 1 / (id - 3) FROM items ORDER BY tenant_id, id

--! simple
--! bare
--! then FETCH 3 FROM c
--! then CLOSE c
--! then DELETE FROM notes WHERE id = 77
BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT tenant_id, qty FROM items WHERE id = 1 ORDER BY tenant_id; INSERT INTO notes VALUES ('q1', 77, 'x'), ('q2', 77, 'x'), ('q3', 77, 'x'), ('q4', 77, 'x'); COMMIT

--! simple
DECLARE c SCROLL CURSOR FOR SELECT tenant_id, id FROM items ORDER BY tenant_id, id LIMIT 5 FOR UPDATE

--! simple
DECLARE c CURSOR FOR SELECT id FROM nowhere
