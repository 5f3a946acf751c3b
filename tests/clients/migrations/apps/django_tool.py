"""Django's migrations: contrib apps, what `makemigrations` writes for changed models, data, and back."""

import os
import pathlib
import subprocess
import sys
import tempfile

from steps import steps

folder = pathlib.Path(tempfile.mkdtemp())
made = folder / "shop_migrations"
made.mkdir()
(made / "__init__.py").touch()

DATA = """
from django.contrib.postgres.operations import AddIndexConcurrently, RemoveIndexConcurrently, TrigramExtension
from django.db import migrations, models
from django.db.models import F


def fill(apps, editor):
    Tenant, Customer = apps.get_model("shop", "Tenant"), apps.get_model("shop", "Customer")
    Project, Task = apps.get_model("shop", "Project"), apps.get_model("shop", "Task")
    tenants = Tenant.objects.bulk_create([Tenant(id=at, name=f"t{at}") for at in range(1, 21)])
    customers = Customer.objects.bulk_create(
        [Customer(tenant=it, email=f"{at}@{it.id}.example") for it in tenants for at in range(5)])
    assert len({it.id for it in customers}) == 100
    for it in customers[:20]:
        project = Project.objects.create(tenant_id=it.tenant_id, owner=it, title="p", tags=["a"])
        Task.objects.create(tenant_id=it.tenant_id, project=project)
    Customer.objects.filter(id__in=[it.id for it in customers[:10]]).update(full_name="somebody")
    Task.objects.update(position=F("position") + 1, data={"by": "migration"})
    assert Customer.objects.exclude(full_name="nobody").count() == 10


def empty(apps, editor):
    for name in ("Task", "Project", "Customer", "Tenant"):
        apps.get_model("shop", name).objects.all().delete()


class Migration(migrations.Migration):
    dependencies = [("shop", "0002_later")]
    operations = [
        migrations.RunPython(fill, empty),
        migrations.RunSQL(
            "UPDATE shop_customer SET joined = DATE '2030-01-01' WHERE full_name = 'somebody'",
            migrations.RunSQL.noop),
        migrations.RunSQL(
            "CREATE VIEW shop_open AS SELECT tenant_id, count(*) AS open FROM shop_task WHERE NOT done GROUP BY tenant_id;"
            "COMMENT ON VIEW shop_open IS 'by tenant';"
            "CREATE FUNCTION shop_half(x numeric) RETURNS numeric LANGUAGE sql IMMUTABLE AS 'SELECT x / 2'",
            "DROP FUNCTION shop_half; DROP VIEW shop_open"),
    ]
"""
ALONE = """
from django.contrib.postgres.operations import AddIndexConcurrently, RemoveIndexConcurrently, TrigramExtension
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("shop", "0003_fill")]
    operations = [
        TrigramExtension(),
        AddIndexConcurrently("customer", models.Index(fields=["full_name"], name="customer_name")),
        RemoveIndexConcurrently("customer", "customer_newest"),
        AddIndexConcurrently("customer", models.Index(fields=["tenant", "-id"], name="customer_newest")),
    ]
"""


def manage(version, *arguments):
    environment = {
        **os.environ, "SHOP_VERSION": str(version), "DJANGO_SETTINGS_MODULE": "django_shop.settings",
        "PYTHONPATH": f"{folder}:{pathlib.Path(__file__).parent}",
    }
    done = subprocess.run([sys.executable, "-m", "django", *arguments], env=environment, capture_output=True, text=True)
    print(done.stdout, done.stderr, flush=True)
    assert done.returncode == 0, (done.stderr.strip().splitlines() or ["?"])[-1]
    return done.stdout


def run(code):
    return manage(2, "shell", "--no-imports", "-c", code)


def contrib_apps():
    for app in ("contenttypes", "auth", "admin", "sessions", "sites"):
        manage(1, "migrate", app)


def first_models():
    manage(1, "makemigrations", "shop", "-n", "first")
    manage(1, "migrate")


def changed_models():
    manage(2, "makemigrations", "shop", "-n", "later", "--noinput")
    manage(2, "migrate")


def data_and_code():
    (made / "0003_fill.py").write_text(DATA)
    manage(2, "migrate")


def concurrent_indexes():
    (made / "0004_alone.py").write_text(ALONE)
    manage(2, "migrate")


def nothing_is_left():
    assert "[ ]" not in manage(2, "showmigrations")
    assert "No planned" in manage(2, "migrate", "--plan")


def sequences_are_reset():
    manage(2, "sqlsequencereset", "shop")
    sql = manage(2, "sqlsequencereset", "shop", "auth", "--no-color")
    (folder / "reset.sql").write_text(sql)
    run(
        "from django.db import connection\n"
        f"for it in open({str(folder / 'reset.sql')!r}).read().split(';'):\n"
        "    if it.strip(): connection.cursor().execute(it)")


def rows_after_it():
    run("""
from django_shop.shop.models import Customer, Task, Watcher, Setting
customers = [Customer.objects.create(tenant_id=at, email='new@x.example') for at in range(1, 21)]
assert len({it.id for it in customers}) == 20 == Customer.objects.filter(id__in=[it.id for it in customers]).count()
task = Task.objects.select_related('project__owner').filter(tenant_id=1).first()
Watcher.objects.create(tenant_id=1, task=task, customer=task.project.owner)
Setting.objects.create(key='a', value={'b': 1})
assert Customer.objects.filter(projects__task__data__by='migration').distinct().count() == 20
Customer.objects.filter(email='new@x.example').delete()
""")


def users_and_permissions():
    run("""
from django.contrib.auth.models import User, Permission, Group
user = User.objects.create_user('a', 'a@example.com', 'b')
group = Group.objects.create(name='g')
group.permissions.set(Permission.objects.filter(content_type__app_label='shop'))
user.groups.add(group)
assert user.has_perm('shop.add_task')
""")


def back_and_forth():
    manage(2, "migrate", "shop", "0002")
    manage(2, "migrate", "shop", "0001")
    manage(2, "migrate")


def introspection():
    told = manage(2, "inspectdb", "shop_customer", "shop_task")
    assert "class ShopCustomer" in told and "full_name" in told and "ForeignKey" in told


def fake_and_squash():
    manage(2, "migrate", "shop", "0003", "--fake")
    manage(2, "migrate", "--fake")
    manage(2, "flush", "--noinput")


steps(contrib_apps, first_models, changed_models, data_and_code, concurrent_indexes, nothing_is_left,
      users_and_permissions, sequences_are_reset, rows_after_it, back_and_forth, introspection, fake_and_squash)
