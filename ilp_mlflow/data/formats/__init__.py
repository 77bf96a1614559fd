"""How rows are written: a module for each format, chosen in `choose`.

Each makes of a row the fields that `ilp_mlflow.data.samples` reads: `messages`, or `prompt` and
`completion`, or `text`; with `tools` and `chat_template_kwargs` where the row has them.
"""
