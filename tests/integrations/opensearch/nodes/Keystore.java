import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.lang.reflect.Method;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import org.opensearch.common.settings.KeyStoreWrapper;

/** Creates a node's keystore in a folder, from pairs of lines on the standard input: a setting's name and its value. */
public class Keystore {
    public static void main(String[] arguments) throws Exception {
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        KeyStoreWrapper store = KeyStoreWrapper.create();
        Method setString = KeyStoreWrapper.class.getDeclaredMethod("setString", String.class, char[].class);
        setString.setAccessible(true);
        for (String name = lines.readLine(); name != null; name = lines.readLine()) {
            setString.invoke(store, name, lines.readLine().toCharArray());
        }
        store.save(Path.of(arguments[0]), new char[0]);
    }
}
