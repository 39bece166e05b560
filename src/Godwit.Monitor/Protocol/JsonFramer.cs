namespace Godwit.Monitor;

/// <summary>What the framer found: a balanced piece of text that may be a JSON value, or why there is none.</summary>
/// <param name="Text">The bytes from the first brace to its partner; empty when <paramref name="Error"/> is set.</param>
/// <param name="Error">What is wrong with the input, else null.</param>
/// <param name="Fatal">The position in the stream is lost: nothing after it can be trusted to be a command.</param>
internal readonly record struct JsonFrame(ReadOnlyMemory<byte> Text, string? Error, bool Fatal);

/// <summary>
/// Cuts a byte stream into JSON objects and arrays by their braces, however the stream was chunked. It looks only at strings and nesting;
/// whether the piece is JSON is for the parser to say. Work is linear in the input and memory bounded by the limits.
/// </summary>
/// <remarks>
/// QMP separates nothing: messages may follow each other without any byte between them (QMP specification, 2.1). After text that cannot
/// be the start or the inside of a message the framer skips to the end of the line, which is where people and scripts start anew. The
/// byte 0xff, never part of UTF-8, drops what was begun; clients send it to get to a known state.
/// </remarks>
internal sealed class JsonFramer(int maxLength, int maxDepth)
{
    private const byte Flush = 0xff;

    private byte[] _buffer = new byte[4096];
    private int _length;
    private int _depth;
    private ulong _objects;
    private bool _inString;
    private bool _escaped;
    private bool _skipping;

    /// <summary>
    /// Takes bytes from <paramref name="input"/> until a frame is complete. False: all was taken and more is needed. The frame's text is
    /// valid until the next call.
    /// </summary>
    public bool TryRead(ref ReadOnlySpan<byte> input, out JsonFrame frame)
    {
        for (int i = 0; i < input.Length; i++)
        {
            if (Take(input[i], out frame))
            {
                input = input[(i + 1)..];
                return true;
            }
        }

        input = default;
        frame = default;
        return false;
    }

    private bool Take(byte value, out JsonFrame frame)
    {
        frame = default;
        if (value == Flush)
        {
            Reset();
            _skipping = false;
            return false;
        }

        if (_skipping)
        {
            _skipping = value != (byte)'\n';
            return false;
        }

        if (_depth == 0)
        {
            if (value is (byte)' ' or (byte)'\t' or (byte)'\r' or (byte)'\n')
            {
                return false;
            }

            if (value is not ((byte)'{' or (byte)'['))
            {
                frame = Skip($"expected a JSON object, found {Show(value)}", value);
                return true;
            }
        }

        if (_length == maxLength)
        {
            frame = new JsonFrame(default, $"the message is longer than {maxLength} bytes", Fatal: true);
            return true;
        }

        Append(value);
        if (_inString)
        {
            return InString(value, out frame);
        }

        switch (value)
        {
            case (byte)'"':
                _inString = true;
                return false;
            case (byte)'{' or (byte)'[':
                return Open(value == (byte)'{', out frame);
            case (byte)'}' or (byte)']':
                return Close(value == (byte)'}', value, out frame);
            default:
                return false;
        }
    }

    private bool InString(byte value, out JsonFrame frame)
    {
        frame = default;
        if (value < 0x20)
        {
            frame = Skip($"found {Show(value)} inside a string, where control characters must be escaped", value);
            return true;
        }

        if (_escaped)
        {
            _escaped = false;
        }
        else if (value == (byte)'\\')
        {
            _escaped = true;
        }
        else if (value == (byte)'"')
        {
            _inString = false;
        }

        return false;
    }

    private bool Open(bool isObject, out JsonFrame frame)
    {
        frame = default;
        if (_depth == maxDepth)
        {
            frame = new JsonFrame(default, $"the message nests deeper than {maxDepth} levels", Fatal: true);
            return true;
        }

        _objects = (_objects << 1) | (isObject ? 1UL : 0);
        _depth++;
        return false;
    }

    private bool Close(bool isObject, byte value, out JsonFrame frame)
    {
        frame = default;
        if ((_objects & 1) != (isObject ? 1UL : 0))
        {
            frame = Skip($"found {Show(value)} where the other kind of bracket is open", value);
            return true;
        }

        _objects >>= 1;
        if (--_depth > 0)
        {
            return false;
        }

        frame = new JsonFrame(_buffer.AsMemory(0, _length), null, Fatal: false);
        Reset();
        return true;
    }

    private JsonFrame Skip(string error, byte value)
    {
        Reset();
        _skipping = value != (byte)'\n';
        return new JsonFrame(default, error, Fatal: false);
    }

    private void Append(byte value)
    {
        if (_length == _buffer.Length)
        {
            Array.Resize(ref _buffer, Math.Min(_buffer.Length * 2, maxLength));
        }

        _buffer[_length++] = value;
    }

    private void Reset()
    {
        _length = 0;
        _depth = 0;
        _objects = 0;
        _inString = false;
        _escaped = false;
    }

    private static string Show(byte value) => value is >= 0x20 and < 0x7f ? $"'{(char)value}'" : $"byte 0x{value:x2}";
}
