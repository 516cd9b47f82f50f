"""What the rows of a table are drawn under: prompts from templates, attributes and grammars."""

from collections.abc import Iterator

from factory.errors import ConfigError, DataError
from factory.models.generator import Generator
from factory.models.prompts import FIELD, grammar_of
from factory.sample.config import GenerateConfig
from factory.sample.table import MOST_CHARS, Row, Table, read_rows


def with_table(config: GenerateConfig, generator: Generator) -> tuple[GenerateConfig, Table | None]:
    """Return `config` with the number, the classes and the digest of its table, and the table.

    Raises:
        DataError: see `read_rows` and `Table.of_classes`.
        ConfigError: the configuration names the digest of other rows.
    """
    if config.table is None:
        return config, None
    given = tuple(config.classes)
    listed = given if isinstance(config.classes, tuple) else ()
    known = listed or generator.class_names or given
    only = next((names[0] for names in (given, known) if len(names) == 1), None)
    table = read_rows(config.table).of_classes(known, only)
    if config.table_digest not in (None, table.digest):
        raise ConfigError(
            f"table {str(config.table)!r} holds other rows (digest {table.digest}) than those that"
            f" were asked for (table_digest {config.table_digest})",
            remedy="Restore its rows, or start a new run without table_digest",
        )
    found = {
        "num_images": table.num_images,
        "table_digest": table.digest,
        "classes": config.classes or table.class_names,
    }
    return config.model_copy(update=found), table


class RowPrompts:
    """What the rows of a table are drawn under.

    The row's own prompt, else the one that `classes` gives its class, each with `{attribute}`
    filled; else what the generator's grammar makes of class and attributes; else the generator's
    prompt of the class.
    """

    def __init__(self, config: GenerateConfig, generator: Generator) -> None:
        self._given = config.prompts
        self._known = generator.prompts
        self._grammar = grammar_of(generator.manifest)
        self._name = generator.name

    def of(self, row: Row) -> str:
        """Return the prompt of a row that has a class.

        Raises:
            DataError: an attribute that the prompt asks for is missing, the prompt is, or is long.
            ConfigError: the class has several prompts.
        """
        name = row.class_name or ""
        template = self._template(row)
        if template is not None:
            prompt = FIELD.sub(lambda found: _filled(row, found[1]), template)
        elif set(self._grammar.attributes) & row.attributes.keys():
            prompt = self._grammar.compose(name, row.attributes)
        elif name in self._known:
            prompt = self._known[name]
        else:
            raise DataError(
                f"{row.where} has no prompt, and generator {self._name!r} knows none for {name!r}",
                remedy="Add a column prompt, or set classes: {name: prompt}",
            )
        if len(prompt) > MOST_CHARS:
            raise DataError(
                f"{row.where}: the prompt has {len(prompt)} characters, at most {MOST_CHARS} are"
                " taken",
                remedy="Shorten it, the most important words first",
            )
        return prompt

    def unused(self, table: Table) -> list[str]:
        """Return the attributes that no prompt of the table mentions."""
        used, columns = set[str](), dict[str, None]()
        for row in table.rows:
            columns |= dict.fromkeys(row.attributes)
            template = self._template(row)
            used |= set(self._grammar.attributes if template is None else FIELD.findall(template))
        return [name for name in columns if name not in used]

    def _template(self, row: Row) -> str | None:
        class_name = row.class_name or ""
        found = self._given.get(class_name) if row.prompt is None else row.prompt
        if found is None or isinstance(found, str):
            return found
        raise ConfigError(
            f"classes: {class_name!r} has {len(found)} prompts, and a row of a table takes one",
            remedy="Give the class one prompt, or each row its own in a column prompt",
        )


def prompts_of(table: Table, prompts: RowPrompts) -> Iterator[tuple[str, str]]:
    """Yield (file and line, prompt) of every prompt of a table, each once.

    Raises:
        DataError, ConfigError: see `RowPrompts.of`.
    """
    seen: set[str] = set()
    for row in table.rows:
        prompt = prompts.of(row)
        if prompt not in seen:
            seen.add(prompt)
            yield row.where, prompt


def _filled(row: Row, name: str) -> str:
    if name == "class_name":
        return (row.class_name or "").replace("_", " ")
    if name not in row.attributes:
        has = ", ".join(row.attributes) or "none"
        raise DataError(
            f"{row.where} has nothing for {{{name}}} of its prompt",
            remedy=f"Fill the column {name!r}, or write a prompt without it; its attributes: {has}",
        )
    return row.attributes[name]
