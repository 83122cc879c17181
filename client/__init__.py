"""Producer, Consumer, AdminClient and their asyncio twins. Imports no actor."""
